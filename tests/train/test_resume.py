from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graft.errors import OutputError, TrainingError
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from graft.train.steps import Stepper
from graft.workplaces import MARK, make_workplace
from tests.checkpoints import equal_tensors

STEPS = 16  # an epoch of the toy task


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A training that is broken off by Ctrl-C in its first, second, ... step, and goes on when tried again."""

    def after(steps: int) -> None:
        taken, take = iter(range(steps)), Stepper.take

        def step(*arguments: Any) -> float:
            if next(taken, None) is None:
                monkeypatch.setattr(Stepper, "take", take)
                raise KeyboardInterrupt
            return take(*arguments)

        monkeypatch.setattr(Stepper, "take", step)

    return after


def train(base: Path, task: Task, out: Path, *, resume: bool = False, dtype: str = "auto", **changes: Any) -> Any:
    config = dataclasses.replace(task.spec.train, **{"epochs": 3, **changes})
    return train_task(base, task, out, config=config, resume=resume, dtype=dtype)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [STEPS // 2, STEPS, 2 * STEPS + 3])
def test_going_on_after_an_interruption_ends_in_the_same_bits(
    optimizer: str, steps: int, base: Path, task: Task, tmp_path: Path, interrupt: Any
) -> None:
    changes = {"optimizer": optimizer, "lr": 1e-3 if optimizer == "adamw" else 0.1}
    whole = train(base, task, tmp_path / "whole", **changes)
    interrupt(steps)
    with pytest.raises(KeyboardInterrupt):
        train(base, task, tmp_path / "out", **changes)
    done = steps // STEPS  # whole epochs
    assert sorted(path.name for path in tmp_path.iterdir()) == ([".out.graft"] if done else []) + ["whole"]
    resumed = train(base, task, tmp_path / "out", resume=True, **changes)
    assert resumed.epochs == whole.epochs
    files = [load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", tmp_path / "out")]
    assert equal_tensors(*files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_without_resume_everything_starts_anew(base: Path, task: Task, tmp_path: Path, interrupt: Any) -> None:
    interrupt(STEPS)
    with pytest.raises(KeyboardInterrupt):
        train(base, task, tmp_path / "out", lr=0.2)
    train(base, task, tmp_path / "out")
    train(base, task, tmp_path / "whole")
    files = [load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", tmp_path / "out")]
    assert equal_tensors(*files)


def test_a_state_of_other_settings_is_refused(base: Path, task: Task, tmp_path: Path, interrupt: Any) -> None:
    interrupt(STEPS)
    with pytest.raises(KeyboardInterrupt):
        train(base, task, tmp_path / "out")
    shorter = dataclasses.replace(task, spec=dataclasses.replace(task.spec, max_length=5))
    other = shutil.copytree(base, tmp_path / "other" / base.name)
    for one, which, changes in (
        (base, task, {"lr": 0.2}),
        (base, task, {"batch_size": 4}),
        (base, task, {"dtype": "bfloat16"}),
        (base, task.with_seed(1), {}),
        (base, shorter, {}),
        (other, task, {}),
    ):
        with pytest.raises(TrainingError, match=r"\.out\.graft: belongs to a training with other settings; delete it"):
            train(one, which, tmp_path / "out", resume=True, **changes)
    assert len(train(base, task, tmp_path / "out", resume=True).epochs) == 3


def test_a_damaged_state_is_refused(base: Path, task: Task, tmp_path: Path) -> None:
    make_workplace(tmp_path / "out")
    (tmp_path / ".out.graft" / "state.pt").write_bytes(b"junk")
    with pytest.raises(TrainingError, match=r"\.out\.graft: not readable; delete it to start anew"):
        train(base, task, tmp_path / "out", resume=True)
    (tmp_path / ".out.graft" / "state.pt").unlink()
    assert len(train(base, task, tmp_path / "out", resume=True, steps=1).epochs) == 1  # nothing there: from the start


@pytest.mark.parametrize("place", ["torch.save", "transformers.PreTrainedModel.save_pretrained"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_full_disk_is_said_and_leaves_nothing(
    place: str, error: Exception, base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    if place != "torch.save" and isinstance(error, RuntimeError):
        error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, full)
    with pytest.raises(OutputError, match=r"out.*cannot be written \(.*(No space left|unexpected pos)"):
        train(base, task, tmp_path / "out", epochs=2)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".out.graft"] == []
    assert [path.name for path in (tmp_path / ".out.graft").glob(".*")] in ([], [MARK])


def test_the_state_is_loaded_without_running_what_it_holds(tmp_path: Path, base: Path, task: Task) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    make_workplace(tmp_path / "out")
    torch.save({"fingerprint": Trap()}, tmp_path / ".out.graft" / "state.pt")
    with pytest.raises(TrainingError, match=r"not readable"):
        train(base, task, tmp_path / "out", resume=True)
    assert not (tmp_path / "ran").exists()
