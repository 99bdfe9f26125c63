from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graft.errors import OutputError, TrainingError
from graft.files.workplaces import MARK, make_workplace
from graft.specs.reader import load_yaml
from graft.tasks.task import Task
from graft.train.content import content_of_base
from graft.train.fine_tuning import train_task
from graft.train.stepper import Stepper
from tests.checkpoints import equal_tensors
from tests.models import write_yaml

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


@pytest.mark.parametrize(("optimizer", "dtype"), [("sgd", "auto"), ("adamw", "auto"), ("adamw", "bfloat16")])
@pytest.mark.parametrize("steps", [STEPS // 2, STEPS, 2 * STEPS + 3])
def test_going_on_after_an_interruption_ends_in_the_same_bits(
    optimizer: str, dtype: str, steps: int, base: Path, task: Task, tmp_path: Path, interrupt: Any
) -> None:
    changes: dict[str, Any] = {"optimizer": optimizer, "lr": 1e-3 if optimizer == "adamw" else 0.1, "dtype": dtype}
    whole = train(base, task, tmp_path / "whole", **changes)
    interrupt(steps)
    with pytest.raises(KeyboardInterrupt):
        train(base, task, tmp_path / "out", **changes)
    done = steps // STEPS  # whole epochs
    assert sorted(path.name for path in tmp_path.iterdir()) == (["out.resume"] if done else []) + ["whole"]
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


Change = Callable[[Path, Path], dict[str, Any]]


def _rewrite(file: Path, change: Callable[[Any], Any]) -> dict[str, Any]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    return {}


def _turn_round(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "label": 1 - row["label"]} for row in rows]


def _double(base: Path) -> dict[str, Any]:
    tensors = load_file(base / "model.safetensors")
    save_file({name: 2 * t for name, t in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    return {}


def _edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return {}


OTHERS: dict[str, tuple[str, Change]] = {
    "rate": (r"train.lr \(0.1 then, 0.2 now\)", lambda base, toy: {"lr": 0.2}),
    "batch size": (r"train.batch_size \(8 then, 4 now\)", lambda base, toy: {"batch_size": 4}),
    "dtype": (
        r"train.precision \(absent then, mixed now\), dtype \(auto then, bfloat16 now\)",
        lambda base, toy: {"dtype": "bfloat16"},
    ),
    "training seed": (r"train.seed \(absent then, 3 now\), seed \(0 then, 3 now\)", lambda base, toy: {"seed": 3}),
    "length": (
        r"task.max_length \(128 then, 5 now\)",
        lambda base, toy: write_yaml(toy / "task.yaml", load_yaml(toy / "task.yaml") | {"max_length": 5}) and {},
    ),
    "labels": (r"task.train examples", lambda base, toy: _rewrite(toy / "train.jsonl", _turn_round)),
    "fewer rows": (r"task.train examples", lambda base, toy: _rewrite(toy / "train.jsonl", lambda rows: rows[9:])),
    "order": (r"task.train examples", lambda base, toy: _rewrite(toy / "train.jsonl", lambda rows: rows[::-1])),
    "validation": (r"task.validation examples", lambda base, toy: _rewrite(toy / "validation.jsonl", _turn_round)),
    "weights": (r"base.weights", lambda base, toy: _double(base)),
    "config": (
        r"base.config",
        lambda base, toy: _edit(base / "config.json", lambda config: config.update(layer_norm_eps=1e-5)),
    ),
    "tokenizer": (
        r"base.tokenizer",
        lambda base, toy: _edit(base / "tokenizer.json", lambda content: content.update(normalizer=None)),
    ),
}


@pytest.mark.parametrize(("named", "change"), OTHERS.values(), ids=OTHERS)
def test_a_state_of_another_content_is_refused_and_named(
    named: str, change: Change, shelf: Path, tmp_path: Path, interrupt: Any
) -> None:
    for name in ("base", "toy"):
        shutil.copytree(shelf / name, tmp_path / name)
    interrupt(STEPS)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "base", Task.load(tmp_path / "toy" / "task.yaml"), tmp_path / "out")
    state = (tmp_path / "out.resume" / "state.pt").read_bytes()
    changes = change(tmp_path / "base", tmp_path / "toy")
    task = Task.load(tmp_path / "toy" / "task.yaml")
    with pytest.raises(TrainingError, match=rf"out\.resume: belongs to another training: {named}; delete it or leave"):
        train(tmp_path / "base", task, tmp_path / "out", resume=True, **changes)
    assert (tmp_path / "out.resume" / "state.pt").read_bytes() == state
    assert not (tmp_path / "out").exists()


def test_the_same_content_in_another_place_goes_on(shelf: Path, tmp_path: Path, interrupt: Any) -> None:
    for name in ("base", "toy"):
        shutil.copytree(shelf / name, tmp_path / "one" / name)
    interrupt(STEPS)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "one" / "base", Task.load(tmp_path / "one" / "toy" / "task.yaml"), tmp_path / "one" / "out")
    (tmp_path / "one").rename(tmp_path / "two")
    (tmp_path / "two" / "base").rename(tmp_path / "two" / "model")
    (tmp_path / "two" / "model" / "README.md").write_text("what it is")
    (tmp_path / "two" / "toy" / "train.jsonl").rename(tmp_path / "two" / "toy" / "rows.jsonl")
    file = tmp_path / "two" / "toy" / "task.yaml"
    spec = load_yaml(file)
    write_yaml(file, spec | {"data": spec["data"] | {"train": "rows.jsonl"}})
    train(tmp_path / "two" / "model", Task.load(file), tmp_path / "two" / "out", resume=True)
    train(shelf / "base", Task.load(shelf / "toy" / "task.yaml"), tmp_path / "whole")
    files = [load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", tmp_path / "two" / "out")]
    assert equal_tensors(*files)


def test_a_damaged_state_is_refused(base: Path, task: Task, tmp_path: Path) -> None:
    make_workplace(tmp_path / "out")
    (tmp_path / "out.resume" / "state.pt").write_bytes(b"junk")
    with pytest.raises(TrainingError, match=r"out\.resume: not readable; delete it or leave --resume"):
        train(base, task, tmp_path / "out", resume=True)
    (tmp_path / "out.resume" / "state.pt").unlink()
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
    assert [path.name for path in tmp_path.iterdir() if path.name != "out.resume"] == []
    assert [path.name for path in (tmp_path / "out.resume").glob(".*")] in ([], [MARK])


def test_the_state_is_loaded_without_running_what_it_holds(tmp_path: Path, base: Path, task: Task) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    make_workplace(tmp_path / "out")
    torch.save({"content": Trap()}, tmp_path / "out.resume" / "state.pt")
    with pytest.raises(TrainingError, match=r"not readable"):
        train(base, task, tmp_path / "out", resume=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"])
def test_a_chat_template_is_part_of_what_a_training_depends_on(file: str, base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    before = content_of_base(copy)
    (copy / file).parent.mkdir(exist_ok=True)
    (copy / file).write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    after = content_of_base(copy)
    assert {key for key in before if before[key] != after[key]} == {"tokenizer"}
