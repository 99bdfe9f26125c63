"""A new support is one file and one row: the command line, its help and its refusals know it from the row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graft.localize.registry import LOCALIZATION_METHODS
from graft.patch.format.reading import load_patch
from graft.refit.registry import SUPPORTS
from tests.refit.toy import SUPPORT

Cli = Callable[..., Any]


def test_every_row_names_a_function_and_says_what_it_does() -> None:
    assert len(SUPPORTS) == 1 + len(LOCALIZATION_METHODS)
    for name, row in SUPPORTS.items():
        assert row.name == name
        assert callable(row.load())
        assert row.help
        assert not row.help.endswith(".")


def test_a_toy_support_is_at_once_a_choice(base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["refit", base, tuned, "--task", task_file, "--support", "toy", "--budget", 20, "--epochs", 1]
    refused = cli(*asked, "-o", tmp_path / "none")
    assert refused.code == 2
    assert "'toy' is not one of 'gradient', 'learned', " in refused.err
    with SUPPORTS.extended(SUPPORT):
        shown = " ".join(cli("refit", "--help").out.split())
        assert "|toy" in shown.partition("--support [")[2].partition("]")[0]
        made = cli(*asked, "-o", tmp_path / "toy", "--json")
        assert json.loads(made.out)["method"]["support"] == "toy"
    patch = load_patch(tmp_path / "toy")
    assert {name: ids.tolist() for name, ids in patch.mask.indices.items()} == {
        "encoder.layer.0.attention.output.LayerNorm.bias": list(range(20))
    }
