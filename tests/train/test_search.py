"""A short search on validation, for a task without a train block."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import BudgetError, ConfigError
from graft.evaluate.evaluation import evaluate_task
from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.memory.train import plan_training
from graft.specs.localizable import LocalizableSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.search import SearchSpec
from graft.specs.train import TrainSpec, train_unless_told, without_search
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import find_training, train_task
from graft.train.search import Search, configure_few, list_stages, search_rate
from graft.train.stepper import Stepper
from tests.models import toy_spec, write_task

QUICK = SearchSpec(density=0.05, rates=(3e-2, 1e-2), within=0.0, rest_lr=1e-4, rest_epochs=2)
CONFIG = TrainSpec(scope="layers", search=QUICK)


def test_a_task_without_a_block_is_searched_and_one_with_a_block_is_not() -> None:
    assert toy_spec().train == train_unless_told()
    assert toy_spec().train.search == SearchSpec()
    assert toy_spec(train=TrainSpec()).train.search is None
    assert without_search(train_unless_told()) == TrainSpec()
    assert without_search(CONFIG) == TrainSpec(scope="layers")
    assert SearchSpec().trainings <= 4


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        ([0.895], 1e-3),  # as good as all weights were: the other rates are not tried
        ([0.8, 0.9], 3e-3),
        ([0.8, 0.85, 0.82], 3e-3),  # none is as good: the most accurate
        ([0.8, 0.8, 0.7], 1e-3),
    ],
)
def test_the_first_rate_as_good_as_all_weights_ends_the_search(accuracies: list[float], kept: float) -> None:
    asked: list[float] = []

    def train_few(rate: float) -> float:
        asked.append(rate)
        return accuracies[len(asked) - 1]

    rates = (1e-3, 3e-3, 1e-2)
    assert search_rate(SearchSpec(rates=rates), 0.9, train_few) == kept
    assert asked == list(rates[: len(accuracies)])


def test_a_search_says_what_was_tried_and_what_the_patch_keeps() -> None:
    search = Search.of(0.54, 0.85, {1e-3: 0.8, 3e-3: 0.87}, 3e-3, 0.9)
    assert search.kept == pytest.approx(0.33 / 0.36)
    assert Search.from_json(json.loads(json.dumps(search.to_json()))) == search
    assert search.lines == [
        "base: validation 0.540",
        "all weights, pulled towards the base, to find the few: validation 0.850",
        "few weights, lr 0.001: validation 0.800",
        "few weights, lr 0.003: validation 0.870",
        "the others, beside the few of lr 0.003: validation 0.900; a patch of the few keeps 0.92 of the gain",
    ]
    assert Search.of(0.5, 0.5, {1e-3: 0.5}, 1e-3, 0.5).lines[-1].endswith("; nothing was gained")


def test_few_weights_train_first_and_the_others_after_them() -> None:
    few, rest = list_stages(dataclasses.replace(train_unless_told(), batch_size=4))
    assert few.localizable == LocalizableSpec()
    assert (rest.localizable, rest.optimizer, rest.lr) == (None, "adamw", 5e-5)
    assert {(stage.search, stage.scope, stage.batch_size) for stage in (few, rest)} == {(None, "layers", 4)}
    assert list_stages(few) == [few]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"localizable": LocalizableSpec()}, "localizable"),
        ({"steps": 3, "stop_at": 0.5}, "steps and stop_at"),
    ],
)
def test_a_search_goes_with_nothing_that_it_chooses(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"search trains several times: it does not go with {why}"):
        TrainSpec(search=SearchSpec(), **changes)
    with pytest.raises(ValueError, match="rates must be one or more different learning rates"):
        SearchSpec(rates=(1e-3, 1e-3))


def test_the_patch_of_what_was_searched_is_the_few(base: Path, task: Task, tmp_path: Path) -> None:
    result = train_task(base, task, tmp_path / "tuned", config=CONFIG)
    assert result.search is not None
    assert result.validation_accuracy == result.search.tuned > result.search.base
    accuracy = {trial.lr: trial.accuracy for trial in result.search.trials}[result.search.lr]
    config = configure_few(CONFIG, QUICK, result.search.lr)
    few_folder = train_task(base, task, tmp_path / "few", config=config).path
    few = diff_checkpoints(base, few_folder)
    patch = localize_skill(base, result.path, task, LocalizeSpec("magnitude", budget=len(few)))
    assert 0 < len(few) <= int(0.05 * Checkpoint.open(base).n_parameters + 0.5)
    shared = few.mask & patch.mask
    assert len(shared) > 0.9 * len(few)  # hardly any of the rest has moved as far
    pair = CheckpointPair.open(few_folder, result.path)
    assert not any(pair.read_delta(name)[1].flatten()[torch.tensor(few.mask[name])].any() for name in few.mask)
    assert len(diff_checkpoints(base, result.path)) > 2 * len(few)  # but it has moved
    as_validation = Task.load(task.folder / "task.yaml", (f"data.test={task.spec.data.validation}", "ood={}"))
    assert evaluate_task(base, as_validation, patches=(patch,))["accuracy"] == pytest.approx(accuracy, abs=0.05)
    assert {path.name for path in tmp_path.iterdir()} == {"tuned", "few"}
    manifest = json.loads((result.path / "graft_training.json").read_text())
    assert manifest["search"] == result.search.to_json()
    assert manifest["train"]["search"]["density"] == 0.05
    assert find_training(base, task, result.path, config=CONFIG) == result
    other = dataclasses.replace(CONFIG, search=dataclasses.replace(QUICK, within=0.5))
    assert find_training(base, task, result.path, config=other) is None


def test_a_new_head_is_that_of_the_few(base: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "task", head={"kind": "classifier"}))
    result = train_task(base, task, tmp_path / "tuned", config=CONFIG)
    assert result.search is not None
    accuracy = {trial.lr: trial.accuracy for trial in result.search.trials}[result.search.lr]
    k = int(0.05 * Checkpoint.open(base).n_parameters + 0.5)
    patch = localize_skill(base, result.path, task, LocalizeSpec("magnitude", budget=k))
    as_validation = Task.load(task.folder / "task.yaml", (f"data.test={task.spec.data.validation}", "ood={}"))
    assert evaluate_task(base, as_validation, patches=(patch,))["accuracy"] == pytest.approx(accuracy, abs=0.05)


def test_a_search_that_was_interrupted_in_its_second_trial_goes_on(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(QUICK, rates=(1e-7, 1e-2)))
    whole = train_task(base, task, tmp_path / "whole", config=config)
    real, taken = Stepper.take, []

    def interrupt(self: Stepper, *given: Any) -> float:
        taken.append(self.schedule.config.lr)
        if taken.count(1e-2) > self.schedule.steps_per_epoch + 1:
            raise KeyboardInterrupt
        return real(self, *given)

    def count(self: Stepper, *given: Any) -> float:
        taken.append(self.schedule.config.lr)
        return real(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_task(base, task, tmp_path / "broken", config=config)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken.resume"}
    done = {path.name for path in (tmp_path / "broken.resume").iterdir()}
    assert {"pulled", "few-1e-07", "few-0.01.resume"} <= done
    taken.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", count)
        again = train_task(base, task, tmp_path / "broken", config=config, resume=True)
    per_epoch = whole.steps // QUICK.rest_epochs
    assert [taken.count(rate) // per_epoch for rate in (1e-7, 1e-2, QUICK.rest_lr)] == [0, 4, 2]
    assert len(taken) == 6 * per_epoch
    assert again.search == whole.search
    pair = CheckpointPair.open(whole.path, again.path)
    assert not any(pair.read_delta(name)[1].any() for name in pair.names)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken"}


def test_what_is_protected_does_not_move(base: Path, task: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(QUICK, rates=(3e-2,), rest_epochs=1))
    tuned = train_task(base, task, tmp_path / "free", config=config).path
    core = localize_skill(base, tuned, task, LocalizeSpec("magnitude", budget=900)).mask
    held = diff_checkpoints(base, train_task(base, task, tmp_path / "held", config=config, protect=[core]).path).mask
    assert len(core & diff_checkpoints(base, tuned).mask) == 900
    assert len(held & core) == 0
    assert len(held) > 900


def test_a_density_that_keeps_nothing_is_refused_before_any_training(base: Path, task: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(QUICK, density=1e-9))
    for refuse in (lambda: train_task(base, task, tmp_path / "out", config=config), lambda: plan(base, task, config)):
        with pytest.raises(BudgetError, match="keeps no entry"):
            refuse()
    assert not list(tmp_path.iterdir())


def plan(base: Path, task: Task, config: TrainSpec) -> int:
    return plan_training(base, task, config).total_of_all


def test_the_plan_is_that_of_the_largest_training(base: Path, task: Task) -> None:
    few, rest = (plan(base, task, stage) for stage in list_stages(CONFIG))
    assert plan(base, task, CONFIG) == max(few, rest)


def test_two_tasks_are_searched_as_one(base: Path, task: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(QUICK, rates=(3e-2,), rest_epochs=1))
    other = Task.load(write_task(tmp_path / "other", name="other"))
    result = train_task(base, [task, other], tmp_path / "both", config=config)
    assert result.search is not None
    assert len(result.search.trials) == 1


def test_an_adapter_is_not_searched_for(base: Path, task: Task, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from graft.specs.adapter import AdapterSpec
    from graft.train.adapter import train_adapter

    with pytest.raises(ConfigError, match="an adapter trains plainly"):
        train_adapter(base, task, tmp_path / "out", AdapterSpec(), config=CONFIG)
