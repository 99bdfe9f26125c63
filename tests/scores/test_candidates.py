"""Candidates: exact budgets, writing, gathered gradients."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from graft.errors import CheckpointError
from graft.patch.live import apply_patch
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import cut_patch
from graft.scores.candidates import Candidates, CandidateSum
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import capture_gradients
from graft.scores.table import CandidateScores
from tests.checkpoints import bits_of, changed_mask

K = 200
SAME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def vector(candidates: Candidates, seed: int, levels: int = 0) -> torch.Tensor:
    """Random scores; with `levels`, only so many different ones, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(levels, (len(candidates),), generator=generator).float()
    return torch.randn(len(candidates), generator=generator)


@SAME
@given(seed=st.integers(0, 1000), levels=st.sampled_from([0, 1, 2, 5]))
def test_the_budget_is_exact_also_among_ties(candidates: Candidates, seed: int, levels: int) -> None:
    scores = vector(candidates, seed, levels)
    kept = candidates.choose(scores)
    assert int(kept.sum()) == K == len(candidates.mask_of(kept))
    assert scores[kept].min() >= scores[~kept].max()


def test_ties_go_to_the_earlier_coordinate(candidates: Candidates) -> None:
    kept = candidates.choose(torch.zeros(len(candidates)))
    assert kept[:K].all()
    assert not kept[K:].any()


def test_each_group_keeps_its_own_share(path: GradientPath) -> None:
    mask = changed_mask(path.pair)
    names = tuple(mask)
    groups = [(names[1::2], 30), (names[::2], 11)]
    candidates = Candidates(path.pair, path.weights, mask, groups)
    kept = candidates.mask_of(candidates.choose(vector(candidates, 0)))
    assert [sum(len(kept[name]) for name in group) for group, _ in groups] == [30, 11]


@pytest.mark.parametrize("of_each", [True, False])
def test_a_score_that_is_no_number_is_refused_and_its_tensor_named(path: GradientPath, of_each: bool) -> None:
    mask = changed_mask(path.pair)
    groups = [((name,), 1) for name in mask] if of_each else [(tuple(mask), 3)]
    candidates = Candidates(path.pair, path.weights, mask, groups)
    scores, last = vector(candidates, 0), list(mask)[-1]
    scores[candidates.slices[last].start] = torch.nan
    with pytest.raises(CheckpointError, match=f"tensor '{last}': a score is NaN"):
        candidates.choose(scores)
    with pytest.raises(CheckpointError, match=f"tensor '{last}': a score is NaN"):
        CandidateScores(path.pair, candidates, scores).select(groups)


def test_what_is_written_is_the_graft_of_the_mask(candidates: Candidates, path: GradientPath) -> None:
    before = bits_of(path.head.model)
    kept = candidates.choose(vector(candidates, 1))
    patch = cut_patch(path.pair, candidates.mask_of(kept), Provenance())
    with apply_patch(path.head.model, patch):
        grafted = bits_of(path.head.model)
    assert grafted != before
    candidates.write(kept)
    assert bits_of(path.head.model) == grafted
    candidates.write(torch.zeros_like(kept))
    assert bits_of(path.head.model) == before


def test_the_gathered_gradient_is_that_of_each_candidate(candidates: Candidates, path: GradientPath) -> None:
    every = path.gradients_of(path.examples)
    expected = torch.cat([every[name][torch.tensor(candidates.mask[name])] for name in candidates.mask])
    assert expected.abs().max() > 1e-4  # there is something to gather
    sink = CandidateSum(candidates)
    with capture_gradients(path.head.model, candidates.weights, sink):
        for half in (path.examples[::2], path.examples[1::2]):
            (path.head.loss(half) * len(half) / len(path.examples)).backward()  # type: ignore[no-untyped-call]
            sink.end_batch()
    assert torch.allclose(sink.total, expected, atol=1e-6)
    assert all(weight.grad is None for weight in path.head.model.parameters())
    assert sink.pop().any()
    assert not sink.total.any()


def test_the_movement_is_that_of_each_candidate(candidates: Candidates, path: GradientPath) -> None:
    expected = [path.pair.read_delta(name)[0].numpy()[candidates.mask[name]] for name in candidates.mask]
    assert np.allclose(candidates.deltas.numpy(), np.concatenate(expected))
    assert (candidates.deltas != 0).any()
