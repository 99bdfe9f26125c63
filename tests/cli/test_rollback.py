"""`graft rollback` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.patch.format.reading import load_patch
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits
from graft.train.fine_tuning import train_task
from tests.cli.conftest import Cli
from tests.models import TEXTS, write_causal, write_task


@pytest.fixture(scope="module")
def lost(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder: other/task.yaml, and further/, tuned on it after the toy task, whose accuracy it costs."""
    folder = tmp_path_factory.mktemp("lost")
    other = write_task(folder / "other", name="swapped", head={"kind": "similarity", "texts": list(reversed(TEXTS))})
    train_task(shelf / "tuned", Task.load(other), folder / "further")
    return folder


def test_rollback_apply_and_undo(lost: Path, shelf: Path, tmp_path: Path, cli: Cli) -> None:
    tuned, keep, restore = lost / "further", lost / "other/task.yaml", shelf / "toy/task.yaml"
    asked = ["rollback", shelf / "tuned", tuned, "--keep", keep, "--restore", restore, "--batch-size", 64]
    asked += ["--set", "points=1", "--set", "keep_weight=0"]
    out = tmp_path / "back.safetensors"
    found = json.loads(cli(*asked, "--budget", 200, "--with-base-values", "-o", out, "--json").out)
    assert (found["k"], found["base"]["name"], found["method"]["method"]) == (200, "further", "rollback")
    assert found["curve"]["chosen"] == 200
    assert len(load_patch(out)) == 200
    assert cli("apply", tuned, out, "-o", tmp_path / "both").code == 0
    assert cli("verify", out, "--base", tuned).code == 0
    before, after = Checkpoint.open(tuned), Checkpoint.open(tmp_path / "both")
    changed = sum(int((before.read(name) != after.read(name)).sum()) for name in before.names)
    assert changed == 200
    assert not all(same_bits(before.read(name), after.read(name)) for name in before.names)
    assert cli(*asked, "--budget", 200, "-o", out).code == 1  # it exists
    fitted = tmp_path / "refit.safetensors"
    found = json.loads(cli(*asked, "--refit", "--set", "refit.epochs=1", "--budget", 50, "-o", fitted, "--json").out)
    assert (found["k"], found["curve"]["method"]) == (50, "refit")
    assert load_patch(fitted).provenance.values == "refit"
    assert cli(*asked, "--refit", "--method", "taylor", "--curve").code == 2


def test_the_curve_needs_no_output_and_wrong_usage_is_told(lost: Path, shelf: Path, tmp_path: Path, cli: Cli) -> None:
    keep, restore = lost / "other/task.yaml", shelf / "toy/task.yaml"
    asked = ["rollback", shelf / "tuned", lost / "further", "--keep", keep, "--restore", restore]
    shown = cli(*asked, "--curve", "--method", "magnitude", "--set", "densities=[0.01,0.5]", "--batch-size", 64)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["density", "k", "swapped", "moods", "share"]
    assert [line.split()[0] for line in lines[1:5]] == ["tuned", "0.01", "0.5", "base"]
    assert cli(*asked).code == 2
    assert cli(*asked, "--curve", "--budget", 3).code == 2
    tries = ["--method", "magnitude", "--set", "densities=[0.01,0.5]", "--batch-size", 64]
    out = tmp_path / "back.safetensors"  # the one task's accuracy is what the other lacks: nothing is free
    none = cli(*asked, *tries, "--tolerance", 0, "-o", out)
    assert (none.code, out.exists()) == (1, False)
    assert none.out.splitlines()[:5] == lines[:5]
    assert "nothing comes back at that price: raise --tolerance" in none.err
    refused = cli(*asked, "--curve", "--set", "share=0")
    assert (refused.code, refused.err.strip()) == (1, "error: command line: share must be above 0")


def test_the_plan_reads_no_weights(lost: Path, shelf: Path, cli: Cli) -> None:
    keep, restore = lost / "other/task.yaml", shelf / "toy/task.yaml"
    asked = ["rollback", shelf / "tuned", lost / "further", "--keep", keep, "--restore", restore, "--plan", "--json"]
    attributed, drawn = (json.loads(cli(*asked, "--method", method).out) for method in ("attribution", "random"))
    parts = {part["what"].partition(" (")[0]: part["bytes"] for part in attributed["parts"]}
    assert parts["weights"] == 4 * Checkpoint.open(lost / "further").n_parameters
    assert {"largest gradient", "candidates"} <= parts.keys()
    assert "largest gradient" not in {part["what"] for part in drawn["parts"]}
    fitted = json.loads(cli(*asked, "--refit").out)
    assert {"largest gradient", "entries and their optimizer"} <= {part["what"] for part in fitted["parts"]}


def test_a_plan_refuses_a_base_that_does_not_fit(lost: Path, shelf: Path, tmp_path: Path, cli: Cli) -> None:
    keep, restore = lost / "other/task.yaml", shelf / "toy/task.yaml"
    other = write_causal(tmp_path / "other", steps=0)
    for base in (tmp_path / "gone", other):
        asked = ["rollback", base, lost / "further", "--keep", keep, "--restore", restore]
        planned, done = cli(*asked, "--plan"), cli(*asked, "-o", tmp_path / "back.safetensors")
        assert planned.code == done.code == 1
        assert planned.err.splitlines()[-1] == done.err.splitlines()[-1]
