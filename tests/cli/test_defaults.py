"""What a new user gets: a TASK without a train block, and the line in which localize says what its patch keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.train import fine_tuning
from graft.train.manifest import read_manifest
from tests.cli.conftest import Cli
from tests.models import write_task, write_yaml

SEARCH = "search={density: 0.05, rates: [0.03], rest_lr: 1e-4, rest_epochs: 1}"


@pytest.fixture
def untuned(tmp_path: Path) -> Path:
    """The toy task without a train block."""
    file = write_task(tmp_path / "task")
    content = yaml.safe_load(file.read_text())
    content.pop("train", None)
    return write_yaml(file, content)


def test_a_task_without_a_train_block_is_searched(base: Path, untuned: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "tuned"
    made = cli("train", base, "--task", untuned, "--set", SEARCH, "-o", out)
    assert made.code == 0
    said = ["all weights, pulled towards the base", "few weights, lr 0.03: validation", "the others, beside the few"]
    assert all(line in made.out for line in said)
    assert all(line in made.err for line in said[:2])  # as it goes
    search = read_manifest(out)["search"]
    assert [trial["lr"] for trial in search["trials"]] == [0.03]
    made = cli("train", base, "--task", untuned, "--set", SEARCH, "-o", tmp_path / "again", "--json")
    assert json.loads(made.out)["search"] == search


def test_the_plan_says_how_many_trainings_there_may_be(base: Path, untuned: Path, task_file: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", untuned, "--set", SEARCH, "--plan"]
    assert cli(*asked).out.endswith("a search on validation: up to 3 trainings in turn\n")
    assert json.loads(cli(*asked, "--json").out)["trainings"] == 3
    assert "trainings" not in json.loads(cli("train", base, "--task", task_file, "--plan", "--json").out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--lr", "0.01"], {"lr": 0.01}),
        (["--scope", "layers"], {"scope": "layers"}),
        (["--set", "l1=1e-4"], {"l1": 1e-4}),
        (["--record"], {}),
    ],
)
def test_who_sets_something_has_chosen(
    options: list[str],
    expected: dict[str, Any],
    base: Path,
    untuned: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[TrainSpec] = []

    def note(*_: object, config: TrainSpec, **__: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "train_task", note)
    cli("train", base, "--task", untuned, *options, "-o", tmp_path / "out")
    assert seen[0].search is None
    plain = {name: getattr(seen[0], name) for name in ("lr", "scope", "l1")}
    assert plain == {"lr": 5e-2, "scope": "all", "l1": 0.0} | expected
    assert Task.load(untuned).spec.train.search is not None


def test_localize_says_what_its_patch_keeps(base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["localize", base, tuned, "--task", task_file, "--scope", "all", "--method", "magnitude"]
    shown = cli(*asked, "--density", "0.5", "-o", tmp_path / "large.safetensors")
    line = next(line for line in shown.out.splitlines() if "of the gain on validation" in line)
    assert line.endswith("; n=48)")
    shown = cli(*asked, "--budget", "1", "-o", tmp_path / "small.safetensors", "--json")
    validation = json.loads(shown.out)["validation"]
    assert validation["gain"] < 0.85
    assert "`graft train --localizable`" in validation["sentence"]
    shown = cli(*asked, "--budget", "1", "--no-measure", "-o", tmp_path / "silent.safetensors", "--json")
    assert "validation" not in json.loads(shown.out)
    parts = [part["what"] for part in json.loads(cli(*asked, "--plan", "--json").out)["parts"]]
    silent = [part["what"] for part in json.loads(cli(*asked, "--plan", "--no-measure", "--json").out)["parts"]]
    assert [what for what in parts if what not in silent] == ["weights"]
