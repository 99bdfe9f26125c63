"""Candidates: the exact best of each micro-batch, and the masks that come of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from graft.errors import CheckpointError
from graft.localize import candidate_search
from graft.localize.candidate_search import CandidateSearch, RunningTop
from graft.localize.gradients import DenseSum
from graft.localize.localization import localize_skill
from graft.localize.path import GradientPath
from graft.patch.mask import Mask
from graft.specs.localize import CandidateSpec, LearnSpec, LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import bits_of, changed_mask
from tests.models import copy_with

ALL = CandidateSpec(multiple=10**6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000), n=st.integers(1, 400), m=st.integers(1, 60), levels=st.sampled_from([0, 1, 2, 9]),
    part=st.integers(1, 90),
)  # fmt: skip
def test_the_running_top_is_that_of_a_stable_sort(seed: int, n: int, m: int, levels: int, part: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (n,), generator=generator).float() if levels else torch.randn(n, generator=generator)
    scores[torch.rand(n, generator=generator) < 0.1] = -torch.inf
    top, starts = RunningTop(m), list(range(0, n, part))
    for i in torch.randperm(len(starts), generator=generator).tolist():  # the order of parts does not matter
        top.offer(scores[starts[i] : starts[i] + part], starts[i])
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if scores[i] > -torch.inf]
    assert sorted(top.drain()[1].tolist()) == sorted(order[:m])
    top.offer(scores[:1], 0)  # it starts anew
    assert len(top.drain()[1]) == int(scores[0] > -torch.inf)


def test_positions_beyond_two_to_the_31_are_kept() -> None:
    top = RunningTop(2)
    top.offer(torch.tensor([1.0, 3.0]), 2**31 - 1)
    top.offer(torch.tensor([2.0]), 2**40)
    assert sorted(top.drain()[1].tolist()) == [2**31, 2**40]


def search_of(path: GradientPath, mask: Mask, k: int = 50, multiple: int = 3) -> CandidateSearch:
    return CandidateSearch(path.pair, [(tuple(mask), k)], multiple)


@pytest.mark.parametrize("part", [7, 1 << 18])
def test_candidates_are_the_best_attributions_of_a_micro_batch(
    path: GradientPath, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_search, "STRETCH", part)
    path.batch_size, changed = len(path.examples), changed_mask(path.pair)
    names = ["encoder.layer.0.output.dense.weight", "encoder.layer.1.attention.self.value.bias"]
    mask = Mask.of(changed.specs, {name: changed[name] for name in names})
    path.pour(search := search_of(path, mask))
    path.pour(dense := DenseSum(path.weights))
    scores = np.concatenate([(-dense.sums[n] * path.pair.read_delta(n)[0]).numpy()[mask[n]] for n in mask])
    kept = np.argsort(-scores, kind="stable")[:150]
    ends = np.cumsum([0, *(len(mask[name]) for name in mask)]).tolist()
    expected = {
        n: mask[n][kept[(kept >= a) & (kept < b)] - a] for n, a, b in zip(mask, ends[:-1], ends[1:], strict=True)
    }
    assert search.mask == Mask.of(mask.specs, expected)
    assert len(search.mask) == 150


def test_each_micro_batch_adds_its_own(path: GradientPath) -> None:
    mask = changed_mask(path.pair)
    path.batch_size = 8
    path.pour(one := search_of(path, mask), micro_batches=1)
    path.pour(four := search_of(path, mask), micro_batches=4)
    assert len(one.mask) == 150 < len(four.mask) <= 600
    assert len(one.mask - four.mask) == 0


def test_a_gradient_that_is_not_finite_is_refused(path: GradientPath) -> None:
    name = "encoder.layer.0.output.dense.weight"
    search = search_of(path, changed_mask(path.pair))
    search.receive(name, torch.ones(path.weights[name].shape))
    with pytest.raises(CheckpointError, match=r"layer\.0\.output\.dense\.weight': its gradient is not finite"):
        search.receive(name, torch.full(path.weights[name].shape, torch.nan))


@pytest.mark.parametrize("allocation", ["global", "per-layer", "per-tensor"])
@pytest.mark.parametrize("method", ["attribution", "taylor", "learned"])
def test_where_candidates_are_all_that_changed_the_mask_is_the_exact_one(
    method: str, allocation: str, base: Path, tuned: Path, task: Task
) -> None:
    learn = LearnSpec(epochs=2, batch_size=64, lr=50.0)
    more = {"budget": 400, "scope": "all", "points": 4, "allocation": allocation, "learn": learn}
    lean = LocalizeSpec(method, candidates=ALL, **more)  # type: ignore[arg-type]
    few = dataclasses.replace(lean, candidates=CandidateSpec(1, 1))
    exact = localize_skill(base, tuned, task, dataclasses.replace(lean, exact_scores=True)).mask
    assert localize_skill(base, tuned, task, lean).mask == exact
    if method != "taylor":  # the control: candidates matter
        assert localize_skill(base, tuned, task, few).mask != exact


@pytest.mark.parametrize("path", ["graft", "straight"])
def test_the_defaults_find_nearly_the_exact_mask_the_same_each_time(
    path: str, base: Path, tuned: Path, task: Task
) -> None:
    config = LocalizeSpec("attribution", budget=200, scope="all", points=4, path=path)  # type: ignore[arg-type]
    lean, again = (localize_skill(base, tuned, task, config).mask for _ in range(2))
    exact = localize_skill(base, tuned, task, dataclasses.replace(config, exact_scores=True)).mask
    assert lean == again
    assert len(lean & exact) >= 190


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_come_back_bit_for_bit_also_after_an_exception(
    straight: bool, dtype: str, base: Path, tuned: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.localize.scores.attribution import score_attribution
    from graft.localize.scores.table import ScoreInput

    pair, head = CheckpointPair.open(base, tuned), open_head(base, task.spec, runtime=Runtime(dtype=dtype))
    path = GradientPath(head, pair, pair.base.parameters, task.train_examples())
    given_all = ScoreInput(pair, pair.base.parameters, points=3, path=path, straight=straight, candidates=ALL)
    given_all = dataclasses.replace(given_all, groups=[(tuple(changed_mask(pair)), 100)])
    before = bits_of(head.model)
    assert score_attribution(given_all)
    assert bits_of(head.model) == before
    seen: list[bool] = []
    loss = head.loss

    def fail_away_from_the_base(*given: object) -> torch.Tensor:
        seen.append(bits_of(head.model) != before)
        if seen[-1]:
            raise CheckpointError("on the way")
        return loss(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(head, "loss", fail_away_from_the_base)
    with pytest.raises(CheckpointError, match="on the way"):
        score_attribution(given_all)
    assert seen[-1]  # it had moved
    assert bits_of(head.model) == before


def test_in_low_precision_the_planted_skill_is_still_found(base: Path, task: Task, tmp_path: Path) -> None:
    """40 weights moved against the gradient, all the others by noise that does nothing."""
    name, pair = "encoder.layer.0.output.dense.weight", CheckpointPair.open(base, base)
    path = GradientPath(open_head(base, task.spec), pair, [name], task.train_examples())
    gradient = path.gradients_at(0.0)[name]
    chosen = gradient.abs().topk(40).indices

    def change(of: str, weight: torch.Tensor) -> None:
        if of == name:
            weight.view(-1)[chosen] -= 0.05 * gradient[chosen].sign()

    halves = [
        copy_with(base, tmp_path / name, what, torch.bfloat16)
        for name, what in (("base", lambda *_: None), ("tuned", change))
    ]
    found = localize_skill(*halves, task, LocalizeSpec("attribution", budget=30, scope="all", points=2)).mask
    assert list(found) == [name]
    assert set(found[name].tolist()) <= set(chosen.tolist())
