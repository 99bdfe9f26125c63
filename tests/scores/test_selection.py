from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import BudgetError, CheckpointError
from graft.scores.selection import select_top

# few values, so that ties are many: zeros of both signs, subnormals, neighbors, infinities
POOL = [0.0, -0.0, 1e-45, -1e-45, 1.0, 1.0000001, -1.0, -1.0000001, 3e38, -3e38, 0.1, float("inf"), float("-inf")]
Scores = dict[str, list[float]]


def select(scores: Scores, k: int) -> dict[str, list[int]]:
    table = {name: partial(torch.tensor, values, dtype=torch.float32) for name, values in scores.items()}
    return {name: indices.tolist() for name, indices in select_top(table, list(scores), k).items()}


def sort_all(scores: Scores, k: int) -> dict[str, list[int]]:
    """The definition: a stable sort of everything, tensors by name, entries by index."""
    places = [(name, i) for name in sorted(scores) for i in range(len(scores[name]))]
    values = np.array([scores[name][i] for name, i in places], np.float32)
    chosen: dict[str, list[int]] = {}
    for place in np.argsort(-values, kind="stable")[:k]:
        chosen.setdefault(places[place][0], []).append(places[place][1])
    return {name: sorted(chosen[name]) for name in sorted(chosen)}


scores_of_tensors = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.one_of(st.sampled_from(POOL), st.floats(width=32, allow_nan=False))),
    min_size=1,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(scores_of_tensors, st.data())
def test_the_same_entries_as_a_full_stable_sort(scores: Scores, data: st.DataObject) -> None:
    allowed = sum(value != float("-inf") for values in scores.values() for value in values)
    if allowed:
        k = data.draw(st.integers(1, allowed))
        assert select(scores, k) == sort_all(scores, k)
    with pytest.raises(BudgetError):
        select(scores, allowed + 1)


def test_large_tensors_with_ties_everywhere() -> None:
    draws = np.random.default_rng(0)
    scores = {name: draws.integers(-3, 4, 20_000).astype(float).tolist() for name in ("b", "a", "c")}
    for k in (1, 8_571, 30_000, 60_000):
        assert select(scores, k) == sort_all(scores, k)


def test_ties_at_the_boundary_go_by_tensor_then_index() -> None:
    scores = {"b": [5.0] * 10_000, "a": [5.0] * 10_000 + [6.0], "c": [9.0]}
    assert select(scores, 12_345) == {"a": list(range(10_001)), "b": list(range(2_343)), "c": [0]}


def test_only_the_named_tensors_are_chosen_from() -> None:
    table = {name: partial(torch.tensor, values) for name, values in {"a": [9.0, 8.0], "b": [1.0, 2.0]}.items()}
    assert select_top(table, ["b"], 1)["b"].tolist() == [1]
    assert select_top(table, ["a", "b"], 1)["a"].tolist() == [0]


def test_a_score_that_is_not_a_number_is_refused() -> None:
    assert select({"a": [1.0, float("inf")]}, 1) == {"a": [1]}
    with pytest.raises(CheckpointError, match="a score is NaN"):
        select({"a": [1.0, float("nan")]}, 1)
