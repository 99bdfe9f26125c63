"""What a new user gets: a TASK without a train block, and the line in which localize says what its patch keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.files.training_manifest import read_manifest
from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.specs.localizable import LocalizableSpec
from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train import fine_tuning
from tests.cli.conftest import Cli
from tests.models import write_task, write_yaml


@pytest.fixture
def untuned(tmp_path: Path) -> Path:
    """The toy task without a train block."""
    file = write_task(tmp_path / "task")
    content = yaml.safe_load(file.read_text())
    content.pop("train", None)
    return write_yaml(file, content)


def test_a_task_without_a_train_block_trains_few_weights(base: Path, untuned: Path, tmp_path: Path, cli: Cli) -> None:
    made = cli("train", base, "--task", untuned, "-o", tmp_path / "tuned", "--json")
    assert made.code == 0
    assert len(json.loads(made.out)["epochs"]) == 5
    train = read_manifest(tmp_path / "tuned")["train"]
    assert (train["localizable"]["support"], train["scope"]) == ("gradient", "layers")
    k = int(1e-4 * Checkpoint.open(base).n_parameters + 0.5)
    assert len(diff_checkpoints(base, tmp_path / "tuned")) == k
    shown = cli("localize", base, tmp_path / "tuned", "--task", untuned, "-o", tmp_path / "few.safetensors", "--json")
    assert json.loads(shown.out)["validation"]["gain"] in (1.0, None)  # the patch is the whole training
    few = load_patch(tmp_path / "few.safetensors")
    assert few.mask == diff_checkpoints(base, tmp_path / "tuned").mask


def test_the_plan_says_how_many_trainings_there_are(base: Path, untuned: Path, task_file: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", untuned, "--plan"]
    assert cli(*asked).out.endswith("few weights train: one training, after a backward pass over its examples\n")
    assert json.loads(cli(*asked, "--json").out)["trainings"] == 1
    pulled = cli(*asked, "--set", "localizable.support=pull").out
    assert pulled.endswith("few weights train: two trainings in turn\n")
    assert "trainings" not in json.loads(cli("train", base, "--task", task_file, "--plan", "--json").out)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[TrainSpec]:
    """The train blocks with which the command would train."""
    blocks: list[TrainSpec] = []

    def note(*_: object, config: TrainSpec, **__: object) -> None:
        blocks.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "train_task", note)
    return blocks


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
    seen: list[TrainSpec],
) -> None:
    cli("train", base, "--task", untuned, *options, "-o", tmp_path / "out")
    assert seen[0].localizable is None
    plain = {name: getattr(seen[0], name) for name in ("lr", "scope", "l1")}
    assert plain == {"lr": 5e-2, "scope": "all", "l1": 0.0} | expected
    assert Task.load(untuned).spec.train.localizable is not None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--localizable"], {"support": "gradient"}),
        (["--localizable", "--density", "0.01"], {"support": "gradient", "density": 0.01}),
        (["--localizable", "--set", "localizable.support=pull"], {"support": "pull"}),
        (["--set", "localizable.lr=0.5"], {"support": "gradient", "lr": 0.5}),
        (["--precision", "pure", "--micro-batch-size", "2"], {"support": "gradient"}),
        (["--set", "precision=full"], {"support": "gradient"}),
    ],
)
def test_few_weights_may_be_set_in_part(
    options: list[str],
    expected: dict[str, Any],
    base: Path,
    untuned: Path,
    task_file: Path,
    tmp_path: Path,
    cli: Cli,
    seen: list[TrainSpec],
) -> None:
    tasks = [untuned, task_file] if "--localizable" in options else [untuned]  # a task with a block has its scope
    for task in tasks:
        cli("train", base, "--task", task, *options, "-o", tmp_path / "out")
    assert [config.localizable for config in seen] == [LocalizableSpec(**expected)] * len(tasks)
    assert [config.scope for config in seen] == ["layers", "all"][: len(tasks)]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--lr", "1e-3"], "lr is of training all weights.*--set localizable.lr"),
        (["--epochs", "2"], "epochs is of training all weights.*--set localizable.epochs"),
        (["--optimizer", "sgd"], "optimizer is of training all weights.*leave it out"),
        (["--set", "l1=1e-3"], "l1 is of training all weights.*leave it out"),
    ],
)
def test_what_few_weights_would_ignore_is_refused(
    options: list[str], advice: str, base: Path, task_file: Path, tmp_path: Path, cli: Cli, seen: list[TrainSpec]
) -> None:
    made = cli("train", base, "--task", task_file, "--localizable", *options, "-o", tmp_path / "out")
    assert made.code == 2
    assert re.search(advice, " ".join(made.err.split()))
    assert not seen
    assert cli("train", base, "--task", task_file, *options, "-o", tmp_path / "out").code != 2
    assert len(seen) == 1  # the control: of all weights


def test_a_number_of_steps_goes_not_with_few_weights(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", task_file, "--set", "steps=3", "-o", tmp_path / "out"]
    refused = cli(*asked, "--localizable")
    assert refused.code == 1
    assert "steps would be ignored" in refused.err
    assert cli(*asked).code == 0


def test_a_key_of_the_first_training_asks_for_it(base: Path, task_file: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", task_file, "--localizable", "--set", "localizable.proximal_epochs=1", "--plan"]
    assert json.loads(cli(*asked, "--json").out)["trainings"] == 2


def test_a_block_that_chose_how_few_weights_are_found_keeps_its_way(
    base: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    content = yaml.safe_load(task_file.read_text())
    content["train"] = {"localizable": {"density": 0.05}}
    content["data"] = {split: str(task_file.parent / file) for split, file in content["data"].items()}
    own = write_yaml(tmp_path / "own.yaml", content | {"ood": {}})
    planned = cli("train", base, "--task", own, "--localizable", "--plan", "--json")
    assert json.loads(planned.out)["trainings"] == 2


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
