from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import OverlapError
from graft.patch.compatibility import Compatibility
from graft.patch.stack import OverlapRule, stack_patches
from tests.checkpoints import make_patch

BASE = {"a": torch.zeros(12), "b": torch.zeros(3)}
CHANGES = st.dictionaries(st.integers(0, 11), st.sampled_from([1.0, 2.0, -0.0]), min_size=1)


def stacked(changes: list[dict[int, float]], rule: OverlapRule) -> dict[int, float]:
    patches = [make_patch(BASE, {"a": entries}) for entries in changes]
    fits = [Compatibility({"a": "target.a"}, {}, ()) for _ in patches]
    assignment = stack_patches(patches, fits, rule)
    assert list(assignment.entries) == ["target.a"]
    indices, values = assignment.entries["target.a"]
    assert indices.tolist() == sorted(set(indices.tolist()))
    assert len(assignment) == len(indices)
    return dict(zip(indices.tolist(), values.tolist(), strict=True))


@settings(derandomize=True, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=4))
def test_the_rules_are_those_of_dicts(changes: list[dict[int, float]]) -> None:
    last: dict[int, float] = {}
    first: dict[int, float] = {}
    for entries in changes:
        last = {**last, **entries}
        first = {**entries, **first}
    assert repr(sorted(stacked(changes, "last").items())) == repr(sorted(last.items()))
    assert repr(sorted(stacked(changes, "first").items())) == repr(sorted(first.items()))
    shared = [{repr(entries[i]) for entries in changes if i in entries} for i in last]  # repr tells -0.0 from 0.0
    if all(len(values) == 1 for values in shared):
        assert stacked(changes, "error") == last
    else:
        with pytest.raises(OverlapError, match=r"'target\.a'"):
            stacked(changes, "error")


def test_values_of_two_dtypes_cannot_share_a_tensor() -> None:
    patches = [make_patch({"a": BASE["a"].to(dtype)}, {"a": {1: 2.0}}) for dtype in (torch.float32, torch.float16)]
    fits = [Compatibility({"a": "a"}, {}, ())] * 2
    assert len(stack_patches(patches[:1], fits[:1])) == 1
    with pytest.raises(OverlapError, match=r"'a'.*float32 and .*float16"):
        stack_patches(patches, fits, "last")
