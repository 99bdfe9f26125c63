"""Training confined to few weights, which a first training picks out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from graft.errors import BudgetError, OutputError
from graft.evaluate.evaluation import evaluate_task
from graft.localize.diff import diff_checkpoints
from graft.memory.train import plan_training
from graft.specs.localizable import LocalizableSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import find_training, train_task
from graft.train.importance.general import draw_region
from graft.train.stepper import Stepper
from tests.models import write_task

FEW = LocalizableSpec(density=0.05, proximal_epochs=4, proximal_l1=1e-4, lr=2e-2, epochs=6)


def test_what_is_trained_localizably_differs_in_few_weights_and_has_learned(
    base: Path, task: Task, tmp_path: Path
) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=FEW)
    result = train_task(base, task, tmp_path / "few", config=config)
    n = Checkpoint.open(base).n_parameters
    patch = diff_checkpoints(base, result.path)
    assert 0 < len(patch) <= int(0.05 * n + 0.5)
    before, after = evaluate_task(base, task)["accuracy"], evaluate_task(result.path, task)["accuracy"]
    assert after > before + 0.1
    grafted = evaluate_task(base, task, patches=(patch,))
    assert grafted["accuracy"] == after  # the patch is the whole of it
    assert {path.name for path in tmp_path.iterdir()} == {"few"}


@pytest.mark.parametrize("stop_at", [None, 0.55])
def test_a_training_that_stops_early_trains_the_weights_of_the_whole_one(
    stop_at: float | None, base: Path, task: Task, tmp_path: Path
) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=FEW)
    early = dataclasses.replace(config, stop_at=stop_at, check_every=stop_at and 2)
    whole = train_task(base, task, tmp_path / "whole", config=config)
    stopped = train_task(base, task, tmp_path / "stopped", config=early)
    assert (stopped.steps < whole.steps) == (stop_at is not None)
    masks = [diff_checkpoints(base, made.path).mask for made in (whole, stopped)]
    assert 0 < len(masks[1]) <= len(masks[0] | masks[1]) <= int(0.05 * Checkpoint.open(base).n_parameters + 0.5)


def test_a_training_is_known_again_by_how_it_was_made(base: Path, task: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=dataclasses.replace(FEW, epochs=1))
    train_task(base, task, tmp_path / "few", config=config)
    assert find_training(base, task, tmp_path / "few", config=config) is not None
    assert find_training(base, task, tmp_path / "few") is None


def test_an_interrupted_restart_ends_in_the_same_bits(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=dataclasses.replace(FEW, epochs=2))
    whole = train_task(base, task, tmp_path / "whole", config=config).path
    real, calls = Stepper.take, []

    def take(self: Stepper, *given: Any) -> float:
        calls.append(self.protection is not None)
        if sum(calls) > self.schedule.steps_per_epoch + 1:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", take)
        with pytest.raises(KeyboardInterrupt):
            train_task(base, task, tmp_path / "broken", config=config)
    assert not (tmp_path / "broken").exists()
    again = train_task(base, task, tmp_path / "broken", config=config, resume=True).path
    pair = CheckpointPair.open(whole, again)
    assert not any(pair.read_delta(name)[1].any() for name in pair.names)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken"}


def test_a_new_head_trains_as_a_whole(base: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "task", head={"kind": "classifier"}))
    config = dataclasses.replace(
        task.spec.train, scope="layers", epochs=1, localizable=dataclasses.replace(FEW, epochs=1)
    )
    out = train_task(base, task, tmp_path / "classifier", config=config).path
    pair = CheckpointPair.open(base, out)
    assert any("classifier" in name for name in pair.extra)
    assert len(diff_checkpoints(base, out, scope="layers")) <= int(0.05 * pair.base.n_parameters + 0.5)


def test_folders_of_the_user_with_names_like_ours_stay(base: Path, task: Task, tmp_path: Path) -> None:
    for name in ("few.pulled", "other.resume"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.pt").write_text("mine")
    few = dataclasses.replace(FEW, proximal_epochs=2, epochs=2)
    config = dataclasses.replace(task.spec.train, scope="all", localizable=few)
    train_task(base, task, tmp_path / "few", config=config, force=True)
    with pytest.raises(OutputError, match="was not made by graft"):
        train_task(base, task, tmp_path / "other", force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"few", "few.pulled", "other.resume"}
    assert all((tmp_path / name / "state.pt").read_text() == "mine" for name in ("few.pulled", "other.resume"))


@pytest.mark.parametrize(
    ("density", "scope", "protected", "said"),
    [
        (
            0.9,
            "layers",
            0.0,
            r"a density of 0.9 is [\d,]+ of [\d,]+ weights, but only [\d,]+ in scope 'layers' may move",
        ),
        (0.6, "all", 0.5, r"but only [\d,]+ in scope 'all' may move: lower it or widen train.scope"),
        (1e-12, "all", 0.0, r"density 1e-12 of [\d,]+ parameters keeps no entry"),
        (2.0, "all", 0.0, r"density 2 is not above 0 and at most 1"),
    ],
)
def test_a_density_that_cannot_be_met_is_refused_before_the_training(
    density: float, scope: str, protected: float, said: str, base: Path, task: Task, tmp_path: Path
) -> None:
    core = [draw_region(base, protected, "all", 0)] if protected else []
    few = dataclasses.replace(FEW, density=0.01, proximal_epochs=1, epochs=1)
    small = dataclasses.replace(task.spec.train, scope=scope, localizable=few)
    assert plan_training(base, task, small, protect=core).parts
    large = dataclasses.replace(small, localizable=dataclasses.replace(few, density=density))
    with pytest.raises(BudgetError, match=said):
        train_task(base, task, tmp_path / "few", config=large, protect=core)
    with pytest.raises(BudgetError, match=said):
        plan_training(base, task, large, protect=core)
    assert list(tmp_path.iterdir()) == []
