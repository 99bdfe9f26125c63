"""A new score is one file and one row: the command line, its help, plans and refusals know it from the row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import ConfigError
from graft.localize import localization
from graft.localize.localization import localize_skill
from graft.localize.registry import LOCALIZATION_METHODS, LocalizationMethod
from graft.memory.localize import plan_localization
from graft.parallel.ranks import Ranks
from graft.patch.format.reading import load_patch
from graft.scores.registry import IMPORTANCE_SCORES, SCORES
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import read_config
from graft.specs.runtime import Runtime
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.train.importance.measuring import ImportanceSpec, measure_importance
from tests.cli.conftest import cli as cli
from tests.scores.toy import IMPORTANCE, SCORE

Cli = Callable[..., Any]


@pytest.mark.parametrize("registry", [SCORES, IMPORTANCE_SCORES, LOCALIZATION_METHODS])
def test_every_row_names_a_function_and_says_what_it_does(registry: Any) -> None:
    for name, row in registry.items():
        assert row.name == name
        assert callable(row.load())
        assert row.help
        assert not row.help.endswith(".")
        assert row.source is None or row.source.startswith("https://arxiv.org/abs/")


def test_every_score_is_a_method_and_a_row_of_its_own_goes_first() -> None:
    assert list(LOCALIZATION_METHODS) == ["learned", "paper", *SCORES]
    assert len(LOCALIZATION_METHODS) == 14
    own = {name for name, row in LOCALIZATION_METHODS.items() if isinstance(row, LocalizationMethod)}
    assert own == {"learned", "paper", "magnitude"}
    assert LOCALIZATION_METHODS["fisher"] is SCORES["fisher"]


def test_a_toy_score_is_at_once_a_method(base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["localize", base, tuned, "--task", task_file, "--method", "toy", "--budget", 40, "--scope", "all"]
    refused = cli(*asked, "-o", tmp_path / "none")
    assert refused.code == 2
    assert "'toy' is not one of 'learned', 'paper', 'attribution', " in refused.err
    assert "toy" not in cli("localize", "--help").out
    with SCORES.extended(SCORE):
        shown = " ".join(cli("localize", "--help").out.split())
        assert "|random|toy]" in shown.replace(" ", "")
        assert "toy the sign of the movement" in shown.partition("Methods:")[2]
        made = cli(*asked, "-o", tmp_path / "toy", "--json")
        assert json.loads(made.out)["method"]["method"] == "toy"
        plan = plan_localization(base, Task.load(task_file), LocalizeSpec("toy"), runtime=Runtime(device="cpu"))
    patch, pair = load_patch(tmp_path / "toy"), CheckpointPair.open(base, tuned)
    assert len(patch) == 40
    assert all((pair.read_delta(name)[0][torch.tensor(patch.mask[name])] > 0).all() for name in patch.mask)
    (dense,) = (part.bytes for part in plan.parts if part.what == "a number per weight in scope")
    layers = [pair.base.spec(name).numel for name in pair.base.parameters if name.startswith("encoder.layer.")]
    assert dense == 12 * sum(layers)


def test_a_toy_score_of_importance_is_at_once_a_method(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["importance", base, "--task", task_file, "--method", "toy", "--micro-batch", 8, "--top", 0.01]
    refused = cli(*asked, "-o", tmp_path / "none")
    assert refused.code == 2
    assert "'toy' is not one of 'saliency', 'fisher', 'movement', 'path'" in refused.err
    with IMPORTANCE_SCORES.extended(IMPORTANCE):
        shown = " ".join(cli("importance", "--help").out.split())
        assert "[saliency|fisher|movement|path|toy]" in shown
        assert "toy: mean cubes of gradients" in shown
        made = json.loads(cli(*asked, "-o", tmp_path / "toy", "--json").out)
        assert made["method"]["method"] == "toy"
        with pytest.raises(ConfigError, match="importance by toy needs a task's data"):
            measure_importance(base, None, ImportanceSpec("toy"))


def test_config_blocks_refuse_what_no_row_has(base: Path) -> None:
    assert read_config(LocalizeSpec, {"method": "paper"}, "a.yaml").method == "paper"
    with pytest.raises(ConfigError, match=r"a.yaml: method: must be one of learned, paper, attribution, .*, not 'toy'"):
        read_config(LocalizeSpec, {"method": "toy"}, "a.yaml")
    with pytest.raises(ConfigError, match=r"a.yaml: method: must be one of saliency, fisher, .*, not 'toy'"):
        read_config(ImportanceSpec, {"method": "toy"}, "a.yaml")
    with SCORES.extended(SCORE):
        assert read_config(LocalizeSpec, {"method": "toy"}, "a.yaml").method == "toy"


def test_what_does_not_add_up_over_processes_is_refused_there_by_its_row(
    base: Path, tuned: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localization, "find_ranks", lambda: Ranks(0, 2))
    dense = dataclasses.replace(SCORE, needs_data=True)
    with (
        SCORES.extended(dense),
        pytest.raises(ConfigError, match=r"^method 'toy' holds .* or use learned, attribution or taylor without exact"),
    ):
        localize_skill(base, tuned, task, LocalizeSpec("toy", budget=5))
    with (
        SCORES.extended(dataclasses.replace(dense, over_processes=True)),
        pytest.raises(ConfigError, match=r"use learned, attribution, taylor or toy without exact scores"),
    ):
        localize_skill(base, tuned, task, LocalizeSpec("fisher", budget=5))
