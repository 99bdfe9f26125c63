"""The learned mask."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from graft.errors import CheckpointError
from graft.localize.learned import MaskLearner, learn_mask
from graft.localize.localization import localize_skill
from graft.patch.mask import Mask
from graft.scores.candidates import Candidates
from graft.scores.gradient_path import GradientPath
from graft.scores.table import Scores
from graft.specs.localize import LearnSpec, LocalizeSpec
from graft.tasks.task import Task
from tests.checkpoints import bits_of

CONFIG = LearnSpec(epochs=6, batch_size=64, lr=200.0)


def learn(path: GradientPath, candidates: Candidates, config: LearnSpec = CONFIG, seed: int = 0) -> Mask:
    start = torch.rand(len(candidates), generator=torch.Generator().manual_seed(5))
    return learn_mask(path.head, candidates, start, path.examples, path.examples, config, seed)


def loss_of(path: GradientPath, mask: Mask) -> float:
    path.move_to_graft(mask)
    loss = path.head.loss(path.examples).item()
    path.return_to_base()
    return loss


def test_learning_finds_a_better_mask_than_the_random_one_that_it_starts_from(
    path: GradientPath, candidates: Candidates
) -> None:
    random = candidates.mask_of(candidates.choose(torch.rand(len(candidates))))
    base, start = loss_of(path, Mask.of({}, {})), loss_of(path, random)
    learned = learn(path, candidates)
    assert len(learned) == len(random)
    assert loss_of(path, learned) < start - 0.3 * (base - min(start, base)) - 0.02


def test_the_mask_that_it_starts_from_is_kept_where_nothing_better_is_met(
    path: GradientPath, candidates: Candidates
) -> None:
    start = torch.rand(len(candidates), generator=torch.Generator().manual_seed(5))
    upwards = dataclasses.replace(CONFIG, lr=1e-9)  # too slow to change any entry
    assert learn(path, candidates, upwards) == candidates.mask_of(candidates.choose(start))
    assert learn(path, candidates) != candidates.mask_of(candidates.choose(start))  # the control


def test_more_restarts_are_never_worse_on_validation(path: GradientPath, candidates: Candidates) -> None:
    one = loss_of(path, learn(path, candidates))
    assert loss_of(path, learn(path, candidates, dataclasses.replace(CONFIG, restarts=3))) <= one + 1e-5


def test_the_same_seed_gives_the_same_mask(path: GradientPath, candidates: Candidates) -> None:
    config = dataclasses.replace(CONFIG, batch_size=16)
    first = learn(path, candidates, config)
    assert learn(path, candidates, config) == first
    assert learn(path, candidates, config, seed=1) != first


def test_the_model_holds_the_base_afterwards(path: GradientPath, candidates: Candidates) -> None:
    before = bits_of(path.head.model)
    learn(path, candidates)
    assert bits_of(path.head.model) == before


def test_a_loss_that_is_not_finite_is_an_error_and_the_base_comes_back(
    path: GradientPath, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bits_of(path.head.model)
    loss, logits = path.head.loss, path.head.logits
    monkeypatch.setattr(path.head, "loss", lambda *given: loss(*given) * torch.nan)
    with pytest.raises(CheckpointError, match="the loss is nan"):
        MaskLearner(
            path.head, candidates, torch.rand(len(candidates)), path.examples, CONFIG, class_debias=False
        ).run_epoch(torch.Generator())
    monkeypatch.setattr(path.head, "logits", lambda *given: logits(*given) * 1e30 * 1e30)
    with pytest.raises(CheckpointError, match=r"not finite|the loss is"):
        learn(path, candidates)
    assert bits_of(path.head.model) == before


@pytest.mark.parametrize("allocation", ["global", "per-layer", "per-tensor"])
def test_the_method_keeps_exactly_the_budget(base: Path, tuned: Path, task: Task, allocation: str) -> None:
    config = LocalizeSpec(
        "learned",
        budget=321,
        scope="all",
        points=2,
        learn=CONFIG,
        allocation=allocation,  # type: ignore[arg-type]
    )
    patch = localize_skill(base, tuned, task, config)
    assert len(patch) == 321
    method = patch.provenance.method
    assert method["method"] == "learned"
    assert method["learn"]["epochs"] == 6


def test_candidates_are_no_more_than_there_are(base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec("learned", budget=2000, scope="all", points=1, learn=LearnSpec(multiple=10**6, epochs=1))
    assert len(localize_skill(base, tuned, task, config)) == 2000


def test_without_validation_examples_the_last_mask_is_kept(path: GradientPath, candidates: Candidates) -> None:
    start = torch.rand(len(candidates), generator=torch.Generator().manual_seed(5))
    learner = MaskLearner(path.head, candidates, start, path.examples, CONFIG)
    generator = torch.Generator().manual_seed(0)
    for _ in range(CONFIG.epochs):
        learner.run_epoch(generator)
    last = candidates.mask_of(learner.chosen)
    assert learn_mask(path.head, candidates, start, path.examples, [], CONFIG, 0) == last


def test_learning_from_both_splits_is_another_mask(base: Path, tuned: Path, task: Task) -> None:
    masks = [
        localize_skill(base, tuned, task, LocalizeSpec("learned", budget=300, scope="all", points=1, learn=config)).mask
        for config in (CONFIG, dataclasses.replace(CONFIG, data="train+validation"))
    ]
    assert masks[0] != masks[1]


def test_a_score_that_was_computed_before_is_taken_as_it_is(base: Path, tuned: Path, task: Task) -> None:
    tables: dict[LocalizeSpec, Scores] = {}
    config = LocalizeSpec("attribution", budget=300, scope="all", points=1)
    first = localize_skill(base, tuned, task, config, score_cache=tables)
    (table,) = tables.values()
    learned = dataclasses.replace(config, method="learned", learn=CONFIG)
    assert (
        localize_skill(base, tuned, task, learned, score_cache=tables).mask
        == localize_skill(base, tuned, task, learned).mask
    )
    assert next(iter(tables.values())) is table
    assert len(tables) == 1
    other = localize_skill(base, tuned, task, dataclasses.replace(config, budget=301), score_cache=tables)
    assert len(tables) == 2  # the graft's own path depends on the budget
    assert len(first) == 300
    assert len(other) == 301


def test_the_prior_draws_the_start_towards_the_largest_movements(base: Path, tuned: Path, task: Task) -> None:
    def mask(method: str, prior: float = 0.0) -> Mask:
        learn = LearnSpec(prior=prior, epochs=1, lr=1e-9)  # so slow that the start is what comes out
        config = LocalizeSpec(method, budget=300, scope="all", points=1, learn=learn, exact_scores=True)  # type: ignore[arg-type]
        return localize_skill(base, tuned, task, config).mask

    largest, attributed = mask("magnitude"), mask("attribution")
    shares = [mask("learned", prior).jaccard(largest) for prior in (0.0, 1.0, 1e6)]
    assert mask("learned", 0.0) == attributed
    assert attributed.jaccard(largest) == shares[0] < shares[1] < shares[2]
    assert shares[2] == 1
