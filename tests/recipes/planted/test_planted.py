"""A tiny experiment on planted truth from start to end."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft.errors import ConfigError
from graft.recipes import run as running
from graft.recipes.planted import seed as seeding
from graft.recipes.run import RunResult, load_experiment, run_recipe
from graft.report.page.build_page import write_report
from graft.results.planted import PlantedSeed
from graft.results.run import load_results
from graft.tensors.checkpoint import Checkpoint
from tests.models import MEALS, write_rounded, write_rows, write_task, write_yaml


def write_recipe(shelf: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(shelf / "toy", folder / "toy", dirs_exist_ok=True)
    content = {
        "kind": "planted",
        "name": "tiny",
        "base": str(shelf / "base"),
        "task": "toy/task.yaml",
        "drift": "toy/task.yaml",
        "densities": [0.05],
        "ratios": [1e-3, 3.0],
        "methods": ["taylor", "magnitude", "random"],
        "multiples": [1, 4],
        "train": {"optimizer": "adamw", "lr": 0.02, "epochs": 4},
        "drift_train": {"optimizer": "adamw", "lr": 0.005, "epochs": 1},
        "seeds": [0, 1],
        "expect": {"magnitude, density 0.05, drift 0.001, overlap 0.recall": {"value": 1, "tolerance": 0.05}},
    }
    return write_yaml(folder / "tiny.yaml", content | changes)


@pytest.fixture(scope="module")
def finished(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("planted")
    return folder / "out", run_recipe(write_recipe(shelf, folder), folder / "out")


def test_magnitude_finds_what_a_small_drift_leaves_on_top_and_loses_it_in_a_large_one(
    finished: tuple[Path, RunResult],
) -> None:
    out, result = finished
    assert not result.missed
    for seed in load_results(out).seeds:
        assert isinstance(seed, PlantedSeed)
        small, large = seed.cells
        assert (small.ratio, large.ratio, small.k, large.k) == (1e-3, 3.0, 1029, 1029)
        assert small.planted == large.planted > seed.base + 0.05  # there is a skill to find
        assert abs(small.drifted - small.planted) < 0.03
        assert small.methods["magnitude"]["recall"] > 0.95
        assert large.methods["magnitude"]["recall"] < 0.7
        assert small.methods["magnitude"]["recovered_gain"] == pytest.approx(1, abs=0.2)
        for place in seed.cells:
            assert place.methods["random"]["recall"] < 0.2
            assert all(row["area"] >= row["recall"] - 1e-9 for row in place.methods.values())  # recall grows


def test_tables_and_plot(finished: tuple[Path, RunResult], tmp_path: Path) -> None:
    out, result = finished
    assert {path.name for path in out.iterdir()} == {"results.json", "table.md", "recall.png"}
    for said in ("Share of the planted entries", "Area of that share", "Gain of the graft", "Seconds a localization"):
        assert said in result.table
    assert "magnitude" in write_report([out], tmp_path / "page.html").page.read_text()


def test_what_rounding_alone_moved_is_not_planted(base: Path, tmp_path: Path) -> None:
    mixed, rounded, matrix = write_rounded(base, tmp_path)
    names = [name for name in Checkpoint.open(mixed).parameters if ".layer." in name]
    recipe = SimpleNamespace(base=str(mixed))
    run: Any = SimpleNamespace(recipe=recipe, names=names, plant=lambda _: rounded, open=str, measure=lambda _: 0.5)
    planting = seeding._plant(run, 0.1)
    assert {name: planting.mask[name].tolist() for name in planting.mask} == {matrix: [0, 1]}
    assert planting.size == pytest.approx(1, rel=0.01)


def test_a_broken_run_goes_on_where_it_was(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(
        shelf, tmp_path, methods=["magnitude"], seeds=[0], expect={}, support="gradient", overlaps=[0.5]
    )
    run_cell, measured = seeding._run_cell, []

    def run_any(*arguments: Any) -> Any:
        measured.append(arguments[4])
        return run_cell(*arguments)

    def run_one(*arguments: Any) -> Any:
        if measured:
            raise KeyboardInterrupt
        return run_any(*arguments)

    monkeypatch.setattr(seeding, "_run_cell", run_one)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "out")
    monkeypatch.setattr(seeding, "_run_cell", run_any)
    monkeypatch.setattr(running, "drop_state", lambda _: None)
    run_recipe(recipe, tmp_path / "out")
    assert measured == [1e-3, 3.0]
    assert {path.name for path in (tmp_path / "out" / "state" / "seed-0").iterdir()} == {"seed.json", "cells"}


def test_settings_that_differ_late_are_places_of_their_own_and_an_area_is_over_all_budgets(
    shelf: Path, tmp_path: Path
) -> None:
    ratios = [0.1, 0.10000001]
    recipe = write_recipe(
        shelf,
        tmp_path,
        methods=["random"],
        seeds=[0],
        expect={},
        ratios=ratios,
        densities=[0.01, 0.2],
        multiples=[1, 9],
    )
    result = run_recipe(recipe, tmp_path / "out")
    (seed,) = load_results(tmp_path / "out").seeds
    assert isinstance(seed, PlantedSeed)
    assert [(cell.density, cell.ratio) for cell in seed.cells] == [(d, r) for d in (0.01, 0.2) for r in ratios]
    assert "random, density 0.01, drift 0.10000001, overlap 0" in result.results["summary"]
    for cell in seed.cells:  # nine times a fifth is more than there is: a curve of one budget less is another curve
        assert ("area" in cell.methods["random"]) == (cell.density == 0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["zip"]}, "methods: .*'zip'"),
        ({"methods": []}, "methods must hold one or more"),
        ({"methods": ["magnitude", "paper"]}, "methods: paper sizes itself, and a recall is among as many entries"),
        ({"densities": [0.05, 0.05]}, "densities must hold one or more different values"),
        ({"multiples": [2, 4]}, "multiples must ascend, and 1 be among them"),
        ({"train": {"localizable": {}}}, "train.localizable: at most the planted weights train anyway"),
        ({"overlaps": [2]}, "overlaps"),
        ({"ratios": [0]}, "ratios"),
    ],
)
def test_refusals_are_one_line(changes: dict[str, Any], said: str, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load_experiment(write_recipe(shelf, tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_a_method_that_contrasts_texts_gets_those_of_the_drift(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most entries are in the top of both tasks' texts: of 30 times the planted ones there are not enough."""
    write_task(tmp_path / "other", name="other")
    meals = [{"text": f"the {thing} is it", "label": i % 2} for i, thing in enumerate(MEALS * 20)]
    write_rows(tmp_path / "other" / "train.jsonl", meals)
    more = {"drift": "other/task.yaml", "methods": ["mathneuro", "random"], "ratios": [0.5], "expect": {}}
    small = {"densities": [0.02, 0.5], "multiples": [1, 30], "seeds": [0]}
    recipe = write_recipe(shelf, tmp_path, **more, **small)
    result = run_recipe(recipe, tmp_path / "out")
    (seed,) = load_results(tmp_path / "out").seeds
    assert isinstance(seed, PlantedSeed)
    found, drawn = (seed.cells[0].methods[method] for method in ("mathneuro", "random"))
    assert 0 < found["recall"] <= 1
    assert ("area" in found, "area" in drawn) == (False, True)
    assert not seed.cells[1].methods["mathneuro"]  # nor are there as many as the planted half of all
    assert "recall" in seed.cells[1].methods["random"]
    assert "mathneuro at 30 times the planted entries: a budget of" in capsys.readouterr().err
    assert "mathneuro" in result.table
    assert "mathneuro" in write_report([tmp_path / "out"], tmp_path / "page.html").page.read_text()
