"""The cache of scores: one table for all budgets that it does not depend on, one a budget where it does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from graft.evaluate import curve
from graft.evaluate.curve import measure_curve
from graft.localize.context import ScoreCache, cache_key, follows_budget
from graft.localize.localization import localize_skill
from graft.localize.registry import LOCALIZATION_METHODS
from graft.scores.registry import SCORES
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from tests.models import general_of

SHARED: list[dict[str, Any]] = [
    {"method": "taylor", "exact_scores": True},
    {"method": "attribution", "exact_scores": True, "path": "straight"},
    {"method": "fisher", "micro_batch": 32},
    {"method": "wanda"},
    {"method": "lift"},
    {"method": "random"},
    {"method": "relative", "allocation": "per-layer"},
]
OWN: list[dict[str, Any]] = [
    {"method": "taylor"},
    {"method": "attribution", "path": "straight"},
    {"method": "attribution", "exact_scores": True, "path": "graft"},
    {"method": "mathneuro"},
]


def tables(base: Path, tuned: Path, task: Task, settings: dict[str, Any]) -> int:
    """Localize at three budgets with one cache; return how many tables it holds."""
    cache: ScoreCache = {}
    general = general_of(settings["method"])
    for density in (1e-3, 1e-2, 3e-3):
        config = LocalizeSpec(**settings, density=density, points=2)
        shared = localize_skill(base, tuned, task, config, general=general, score_cache=cache)
        assert shared.mask == localize_skill(base, tuned, task, config, general=general).mask
    return len(cache)


@pytest.mark.parametrize("settings", SHARED, ids=str)
def test_densities_share_a_table_that_does_not_depend_on_them(
    settings: dict[str, Any], base: Path, tuned: Path, task: Task
) -> None:
    assert tables(base, tuned, task, settings) == 1


@pytest.mark.parametrize("settings", OWN, ids=str)
def test_a_density_has_its_own_table_where_scores_follow_it(
    settings: dict[str, Any], base: Path, tuned: Path, task: Task
) -> None:
    assert tables(base, tuned, task, settings) == 3


def test_only_the_budget_is_left_out_of_the_key() -> None:
    config = LocalizeSpec("relative", seed=1)
    key = cache_key("relative", config)
    for same in ({"density": 0.5}, {"budget": 3}, {"allocation": "per-tensor"}):
        assert cache_key("relative", dataclasses.replace(config, **same)) == key
    lines = LocalizeSpec("relative", seed=1, structure="rows", lines=4)
    assert cache_key("relative", lines) == cache_key("relative", dataclasses.replace(lines, lines=None, bytes=90))
    for other in ({"seed": 2}, {"scope": "all"}, {"max_rank": 3}, {"micro_batch": 2}, {"structure": "rows"}):
        assert cache_key("relative", dataclasses.replace(config, **other)) != key
    assert cache_key("taylor", config) != key


def test_every_method_of_candidates_follows_the_budget_that_names_them() -> None:
    for name, row in LOCALIZATION_METHODS.items():
        assert follows_budget(name, LocalizeSpec(path="straight")) == (row.of_candidates or name == "mathneuro")


def test_a_curve_scores_once_where_it_can(base: Path, tuned: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("taylor", "mathneuro"):
        row = SCORES[name]
        score = row.load()
        counted = "tests.localize.test_score_cache:COUNTED"
        monkeypatch.setitem(globals(), "COUNTED", lambda inputs, score=score: (calls.append(1), score(inputs))[1])
        monkeypatch.setitem(SCORES._entries, name, dataclasses.replace(row, target=counted))
        config = LocalizeSpec(name, exact_scores=True)
        measure_curve(base, tuned, task, config, general=general_of(name), densities=(1e-3, 1e-2))
    assert len(calls) == 1 + 2
    assert curve.DENSITIES[0] == 1e-5
