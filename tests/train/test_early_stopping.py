from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graft.errors import TrainingError
from graft.files.training_manifest import MANIFEST, read_manifest
from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.train import epochs
from graft.train.fine_tuning import TrainResult, find_training, train_task
from graft.train.stepper import Stepper
from tests.checkpoints import equal_tensors
from tests.models import write_base, write_rows, write_task

STEPS = 16  # an epoch of the toy task


def train(base: Path, task: Task, out: Path, *, resume: bool = False, **changes: Any) -> TrainResult:
    config = dataclasses.replace(task.spec.train, **{"epochs": 3, **changes})
    return train_task(base, task, out, config=config, resume=resume)


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What validation accuracy was at every look, each a little higher than the one before: .01, .02, ..."""
    seen: list[float] = []
    monkeypatch.setattr(epochs, "_accuracy", lambda *_: seen.append((len(seen) + 1) / 100) or seen[-1])
    return seen


@pytest.mark.parametrize(
    ("stop_at", "check_every", "steps", "epochs", "looks"),
    [
        (0.02, None, 2 * STEPS, 2, 2),  # at the end of an epoch
        (0.02, 5, 10, 1, 2),
        (0.05, 5, 20, 2, 5),  # 5, 10, 15 and the end of the first epoch come before
        (1.0, 5, 3 * STEPS, 3, 12),  # never reached
    ],
)
def test_training_stops_at_the_first_check_that_reaches_it(
    stop_at: float,
    check_every: int | None,
    steps: int,
    epochs: int,
    looks: int,
    base: Path,
    task: Task,
    tmp_path: Path,
    accuracies: list[float],
) -> None:
    result = train(base, task, tmp_path / "out", stop_at=stop_at, check_every=check_every)
    assert (result.steps, len(result.epochs), len(accuracies)) == (steps, epochs, looks)
    assert result.epochs[-1].validation_accuracy == accuracies[-1]
    record = read_manifest(tmp_path / "out")
    assert (record["steps"], record["train"]["stop_at"]) == (steps, stop_at)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no state is left


def test_it_is_a_point_on_the_way_of_the_whole_training(base: Path, task: Task, tmp_path: Path) -> None:
    whole = train(base, task, tmp_path / "whole")
    early = train(base, task, tmp_path / "early", stop_at=0.7, check_every=2)
    assert 0 < early.steps < whole.steps == 3 * STEPS
    assert 0.7 <= early.epochs[-1].validation_accuracy < whole.epochs[-1].validation_accuracy
    base_weights, early_weights, whole_weights = (
        torch.cat([w.flatten() for w in load_file(folder / "model.safetensors").values()])
        for folder in (base, tmp_path / "early", tmp_path / "whole")
    )
    assert 0 < (early_weights - base_weights).norm() < (whole_weights - base_weights).norm()


def test_looking_does_not_change_the_bits(base: Path, task: Task, tmp_path: Path) -> None:
    constant = {"schedule": "constant", "epochs": 1}
    looked = train(base, task, tmp_path / "looked", stop_at=0.6, check_every=1, **constant)
    assert looked.steps > 1
    train(base, task, tmp_path / "plain", steps=looked.steps, **constant)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("looked", "plain")]
    assert equal_tensors(*files)


def test_going_on_after_an_interruption_stops_at_the_same_step(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = {"stop_at": 0.8, "check_every": 3, "lr": 0.05}
    whole = train(base, task, tmp_path / "whole", **early)
    assert STEPS + 1 < whole.steps < 3 * STEPS
    taken, take = iter(range(STEPS + 1)), Stepper.take

    def step(*arguments: Any) -> float:
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return take(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", step)
        with pytest.raises(KeyboardInterrupt):
            train(base, task, tmp_path / "out", **early)
    with pytest.raises(TrainingError, match=r"belongs to another training: train.stop_at \(0.8 then, 0.7 now\)"):
        train(base, task, tmp_path / "out", resume=True, **early | {"stop_at": 0.7})
    resumed = train(base, task, tmp_path / "out", resume=True, **early)
    assert (resumed.steps, resumed.epochs) == (whole.steps, whole.epochs)
    assert equal_tensors(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out")))


def test_what_cannot_be_meant_is_refused() -> None:
    assert TrainSpec(stop_at=0.8, check_every=10).check_every == 10
    for changes, said in (
        ({"stop_at": -0.1}, "stop_at must be from 0 to 1"),
        ({"stop_at": 80}, "stop_at must be from 0 to 1"),
        ({"stop_at": 0.8, "check_every": 0}, "check_every must be 1 or more"),
        ({"check_every": 5}, "needs stop_at"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainSpec(**changes)  # type: ignore[arg-type]


def test_a_finished_training_is_known_again_by_all_that_made_it(base: Path, task: Task, tmp_path: Path) -> None:
    made = train_task(base, task, tmp_path / "out")
    assert find_training(base, task, tmp_path / "out") == made
    other_base = write_base(tmp_path / "base", steps=1)
    rows = [json.loads(line) for line in (task.folder / "train.jsonl").read_text().splitlines()]
    write_task(tmp_path / "toy")
    write_rows(tmp_path / "toy" / "train.jsonl", [{**row, "text": row["text"] + " very"} for row in rows])
    elsewhere = Task.load(write_task(tmp_path / "same"))
    assert find_training(base, elsewhere, tmp_path / "out") == made  # the same content in another place
    faster = dataclasses.replace(task.spec.train, lr=0.2)
    for model, which, changes in (
        (other_base, task, {}),
        (base, Task.load(tmp_path / "toy" / "task.yaml"), {}),
        (base, task.with_seed(1), {}),
        (base, dataclasses.replace(task, spec=dataclasses.replace(task.spec, max_length=5)), {}),
        (base, task, {"config": faster}),
        (base, task, {"dtype": "bfloat16"}),
    ):
        assert find_training(model, which, tmp_path / "out", **changes) is None  # type: ignore[arg-type]
    for text in ("{", "[]", "{}"):
        (tmp_path / "out" / MANIFEST).write_text(text)
        assert find_training(base, task, tmp_path / "out") is None
    assert find_training(base, task, tmp_path / "nowhere") is None


def test_a_check_after_the_last_step_does_not_leave_out_the_mean(base: Path, task: Task, tmp_path: Path) -> None:
    plain = train(base, task, tmp_path / "plain", steps=4, average=True)
    checked = train(base, task, tmp_path / "checked", steps=4, average=True, stop_at=0.01, check_every=4)
    assert equal_tensors(*(load_file(result.path / "model.safetensors") for result in (plain, checked)))
