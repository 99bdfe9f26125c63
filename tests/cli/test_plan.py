"""--plan, and the options that change what localising holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.localize.planning import plan_localization
from graft.localize.spec import LocalizeSpec
from graft.patch.file import load_patch
from graft.tasks.task import Task
from tests.cli.conftest import Cli


def test_localize_says_what_it_will_take_and_does_nothing(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    asked = ["localize", base, tuned, "--task", task_file, "--density", "0.01", "--plan"]
    shown = cli(*asked)
    assert (shown.code, shown.err) == (0, "")
    assert [line.split("  ")[0] for line in shown.out.splitlines()[:3]] == [
        "weights",
        "largest gradient",
        "activations, longest inputs",
    ]
    assert shown.out.splitlines()[-1].endswith("in host memory: it fits")
    plain, exact = (
        json.loads(cli(*asked, *more, "--json", "-o", tmp_path / "p").out) for more in ([], ["--exact-scores"])
    )
    assert (
        plain["parts"] == plan_localization(base, Task.load(task_file), LocalizeSpec(density=0.01)).to_json()["parts"]
    )
    assert "a number per weight in scope" in {part["what"] for part in exact["parts"]}
    assert plain["fits"] is True
    assert not list(tmp_path.iterdir())


def test_train_says_what_it_will_take(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", task_file, "--plan", "--json"]
    totals = [json.loads(cli(*asked, "--optimizer", name).out)["total"]["host"] for name in ("sgd", "adamw")]
    assert totals[0] < totals[1]
    assert cli("train", base, "--task", task_file).code == 2  # without --plan it needs -o


@pytest.mark.parametrize("more", [["--exact-scores"], ["--gradient-checkpointing"]])
def test_how_it_is_computed_is_an_option(
    more: list[str], base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "skill.safetensors"
    asked = ["localize", base, tuned, "--task", task_file, "--budget", 50, "--points", 1, "-o", out]
    assert cli(*asked, *more).code == 0
    patch = load_patch(out)
    assert len(patch) == 50
    assert patch.provenance.method["exact_scores"] is ("--exact-scores" in more)
