"""A recipe's refit: a graft beside the others, of the recipe's own tuned model or of one that is trained for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.patch.format.reading import load_patch
from graft.recipes.run import run_recipe
from graft.report.page.build_page import write_report
from graft.results.models import TEACHER
from tests.recipes.single.test_single import write_recipe

REFIT = {"budget": 300, "scope": "all", "epochs": 3, "lr": 0.02}


def test_a_refit_of_the_tuned_model_stands_beside_the_grafts(shelf: Path, tmp_path: Path) -> None:
    needed = {"necessity": True}
    recipe = write_recipe(shelf, tmp_path / "tiny.yaml", refit=REFIT, analysis=needed, seeds=[0], expect={})
    result = run_recipe(recipe, tmp_path / "out")
    models = result.results["seeds"][0]["models"]
    assert TEACHER not in models
    assert "lost_gain" in models["tuned without (refit)"]
    patch = load_patch(tmp_path / "out" / "patches" / "refit-seed-0.safetensors")
    assert (len(patch), patch.provenance.values) == (300, "refit")
    figures = models["graft (refit)"]
    gained = models["tuned"]["accuracy"] - models["base"]["accuracy"]
    assert figures["recovered_gain"] == pytest.approx((figures["accuracy"] - models["base"]["accuracy"]) / gained)
    assert patch.provenance.metrics is not None
    assert patch.provenance.metrics["accuracy"] == figures["accuracy"]


def test_a_refit_of_another_training_is_measured_like_the_other_grafts(shelf: Path, tmp_path: Path) -> None:
    refit = {**REFIT, "train": {"optimizer": "adamw", "lr": 1e-3, "epochs": 2, "l1": 0}}
    recipe = write_recipe(shelf, tmp_path / "tiny.yaml", refit=refit, seeds=[0], expect={})
    result = run_recipe(recipe, tmp_path / "out")
    models = result.results["seeds"][0]["models"]
    assert models[TEACHER]["accuracy"] != models["tuned"]["accuracy"]
    figures, base = models["graft (refit)"], models["base"]["accuracy"]
    gained = models["tuned"]["accuracy"] - base
    for shown in (figures, models[TEACHER]):  # cells of one column have one denominator
        assert shown["recovered_gain"] == pytest.approx((shown["accuracy"] - base) / gained)
    assert "| teacher " in result.table
    page = write_report([tmp_path / "out"], tmp_path / "page.html").page.read_text()
    assert "graft (refit)" in page
