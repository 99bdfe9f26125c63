from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graft.patch.format.reading import load_mask
from graft.train.importance.consolidation_file import FILE

Cli = Callable[..., Any]


def test_the_command_writes_a_mask_that_says_where_it_came_from(
    base: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "core.safetensors"
    done = cli("importance", base, "--task", task_file, "--top", 0.25, "-o", out, "--json")
    content = json.loads(done.out)
    assert content["kind"] == "mask"
    assert content["method"]["method"] == "saliency"
    assert len(load_mask(out)) == content["k"] == round(0.25 * content["n_parameters"])
    again = cli("importance", base, "--task", task_file, "-o", out)
    assert again.code == 1
    assert "exists already" in again.err


def test_the_command_writes_what_training_goes_by(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "ewc.safetensors"
    asked = ("importance", base, "--task", task_file, "--method", "fisher", "--micro-batch", 8)
    done = cli(*asked, "--top", 1, "--soft", "-o", file, "--json")
    assert json.loads(done.out)["method"] == "fisher"
    train = ("train", base, "--task", task_file, "--epochs", 1, "--importance", file)
    assert cli(*train, "-o", tmp_path / "wrong").code == 2
    done = cli(*train, "--method", "regularize", "--record", "-o", tmp_path / "out")
    assert done.code == 0
    assert (tmp_path / "out" / FILE).is_file()
    shown = cli("train", base, "--task", task_file, "--method", "regularize", "-o", tmp_path / "none")
    assert shown.code == 1
    assert "no such file of importance" in shown.err
