from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft.controls.registry import CONTROLS, is_made_of_patch
from graft.evaluate.calibration import negative_log_likelihood
from graft.evaluate.evaluation import Predictions, predict_examples
from graft.evaluate.interpolation import Match
from graft.localize.budget import resolve_budget
from graft.recipes.seed_run import SeedContext
from graft.recipes.single import controls
from graft.recipes.single.controls import match_early_stopping, match_interpolation, match_larger_random, scale_tuned
from graft.recipes.single.curve import trace_curve
from graft.recipes.single.seed import _measure_controls, run_seed
from graft.recipes.single.seed_run import SingleRun
from graft.results.fields import to_json
from graft.results.gain_split import split_gain
from graft.results.models import graft_name, name_models
from graft.specs.reader import read_config
from graft.specs.single import SingleSpec
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.chat_models import answer_examples, completion_head
from tests.models import write_rounded

FULL: dict[str, Any] = {
    "controls": ["temperature", "interpolation", "early_stopping", "larger_random"],
    "necessity": True,
    "curve": {"densities": [1e-9, 0.01, 0.03, 0.4, 1.0]},
    "diagnosis": True,
}
MODELS = [
    *("base", "tuned", "graft (magnitude)", "graft (random)"),
    *("tuned, temperature-scaled", "interpolation", "early-stopped", "random, larger"),
    *("tuned without (magnitude)", "tuned without (random)"),
]


def recipe_of(base: Path, analysis: dict[str, Any]) -> SingleSpec:
    content = {"name": "full", "base": str(base), "task": "unused", "controls": ["random"], "analysis": analysis}
    content["localize"] = {"method": "magnitude", "density": 0.03, "scope": "all"}
    return read_config(SingleSpec, content, "recipe")


@pytest.fixture(scope="module")
def bench(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> SingleRun:
    """A seed whose training is done already."""
    folder = tmp_path_factory.mktemp("seed")
    shutil.copytree(shelf / "tuned", folder / "tuned")
    task = Task.load(shelf / "toy" / "task.yaml")
    context = SeedContext(0, folder, folder / "patches")
    return SingleRun(recipe_of(shelf / "base", FULL), task.with_seed(0), context=context)


@pytest.fixture(scope="module")
def seed(bench: SingleRun) -> dict[str, Any]:
    found: dict[str, Any] = to_json(run_seed(bench))
    return found


def k_of(run: SingleRun) -> int:
    """How many entries a patch of the recipe's density has."""
    return resolve_budget(run.pair.base.n_parameters, run.recipe.localize.density, None)


def test_a_temperature_divides_the_logits_of_answers_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    head, examples = completion_head(steps=60), answer_examples(24, seed=5)
    task = SimpleNamespace(validation_examples=lambda: examples)
    run: Any = SimpleNamespace(task=task, recipe=SimpleNamespace(evaluate=SimpleNamespace(batch_size=8)))
    run.validate = lambda head: head.accuracy(examples)
    run.predict = lambda head, temperature=1.0: Predictions(predict_examples(head, examples, 8, "test", temperature))
    control = scale_tuned(run, head, run.predict(head))
    plain, scaled = run.predict(head).test.outcomes(), control.predictions.test.outcomes()
    assert control.validation_accuracy == plain.correct.mean()
    assert (scaled.correct == plain.correct).all()
    assert negative_log_likelihood(scaled) < negative_log_likelihood(plain)
    assert control.value < 1 < (scaled.confidence / plain.confidence).min()


def test_every_model_is_measured_like_the_grafts(seed: dict[str, Any], bench: SingleRun) -> None:
    assert list(seed["models"]) == list(seed["bins"]) == MODELS
    assert set(seed["differences"]) == set(MODELS) - {"graft (magnitude)"}
    assert set(seed["differences"]["interpolation"]["test"]) == {"accuracy", "ece", "nll", "brier"}
    for name in MODELS[2:]:
        assert {"agreement", "recovered_gain", "ci", "ood"} <= set(seed["models"][name])
    assert {"localize", "evaluate", "controls", "necessity", "curve"} <= set(seed["seconds"])
    assert seed["seconds"].get("train", 0) < 1  # taken up, not made again
    assert json.loads(json.dumps(seed, allow_nan=False)) == seed
    assert sorted(path.name for path in bench.folder.iterdir()) == ["patches", "tuned"]
    names = ["magnitude-seed-0.safetensors", "random-seed-0.safetensors"]
    assert sorted(path.name for path in (bench.folder / "patches").iterdir()) == names


def test_controls_say_how_they_were_chosen(seed: dict[str, Any], bench: SingleRun) -> None:
    found = seed["controls"]
    assert list(found) == MODELS[4:8]
    assert [control["setting"] for control in found.values()] == ["temperature", "alpha", "steps", "density"]
    assert all(0.5 < control["validation_accuracy"] <= 1 for control in found.values())
    assert 0 < found["interpolation"]["value"] <= 1
    assert 0 < found["early-stopped"]["value"] < 80
    # equal shares of right answers count as equal, whoever counted them
    assert found["early-stopped"]["validation_accuracy"] == found["random, larger"]["validation_accuracy"]
    assert 0.03 <= found["random, larger"]["value"] <= 1
    scaled, tuned = (seed["models"][name] for name in ("tuned, temperature-scaled", "tuned"))
    assert scaled["accuracy"] == tuned["accuracy"]
    assert scaled["nll"] != tuned["nll"]


def test_necessity_stands_beside_sufficiency(seed: dict[str, Any]) -> None:
    models = seed["models"]
    accuracies = {name: models[name]["accuracy"] for name in models}
    for method in ("magnitude", "random"):
        without = models[f"tuned without ({method})"]
        lost = accuracies["tuned"] - without["accuracy"]
        assert without["lost_gain"] == pytest.approx(lost / (accuracies["tuned"] - accuracies["base"]))
        assert without["ood"]["meals"]["lost_gain"] is not None
    assert models["tuned without (magnitude)"]["lost_gain"] > models["tuned without (random)"]["lost_gain"] + 0.1
    assert "lost_gain" not in models["graft (magnitude)"]


def test_the_curve_holds_the_densities_that_can_be_had(seed: dict[str, Any]) -> None:
    curve = seed["curve"]
    n = seed["k"] / 0.03
    assert [(point["method"], point["density"]) for point in curve] == [
        (method, density) for method in ("magnitude", "random") for density in (0.01, 0.03, 0.4)
    ]
    assert [point["k"] for point in curve] == [pytest.approx(point["density"] * n, abs=30) for point in curve]
    same = seed["models"]["graft (magnitude)"]
    assert {key: curve[1][key] for key in ("accuracy", "recovered_gain", "ece", "nll")} == pytest.approx(
        {key: same[key] for key in ("accuracy", "recovered_gain", "ece", "nll")}
    )
    assert curve[2]["recovered_gain"] > curve[0]["recovered_gain"]
    assert curve[1]["lost_gain"] == pytest.approx(seed["models"]["tuned without (magnitude)"]["lost_gain"])
    assert curve[2]["lost_gain"] > curve[0]["lost_gain"]


def test_novel_rows_are_told_apart_and_the_checkpoint_is_diagnosed(seed: dict[str, Any]) -> None:
    assert set(seed["detection"]) == {"meals", "novel"}
    assert list(seed["detection"]["novel"]) == MODELS
    figures = seed["detection"]["novel"]["tuned"]
    assert (figures["n_in"], figures["n_out"]) == (80, 8)
    assert {"auroc", "fpr95", "ci"} == set(figures["msp"]) == set(figures["energy"])
    assert seed["diagnosis"]["text"]
    assert all(isinstance(sentence, str) for sentence in seed["diagnosis"]["text"])


def test_what_is_not_asked_for_is_not_done(bench: SingleRun, seed: dict[str, Any]) -> None:
    little = recipe_of(Path(bench.recipe.base), {"controls": [], "detection": False})
    found = to_json(run_seed(SingleRun(little, bench.task, context=bench.context)))
    assert list(found["models"]) == MODELS[:4]
    assert (found["controls"], found["curve"]) == ({}, [])
    assert {"detection", "diagnosis"}.isdisjoint(found)
    assert found["models"]["graft (magnitude)"] == seed["models"]["graft (magnitude)"]


def test_settings_are_chosen_on_validation_and_never_on_test(bench: SingleRun, monkeypatch: pytest.MonkeyPatch) -> None:
    head = bench.open(bench.recipe.base)
    target = 0.8
    found = {
        "alpha": match_interpolation(bench, head, target),
        "density": match_larger_random(bench, head, target, k_of(bench)),
        "steps": match_early_stopping(bench, target),
    }
    other = Task.load(bench.task.folder / "task.yaml", ("data.test=meals.jsonl",)).with_seed(0)
    swapped = SingleRun(bench.recipe, other, context=bench.context)
    again = {
        "alpha": match_interpolation(swapped, head, target),
        "density": match_larger_random(swapped, head, target, k_of(bench)),
        "steps": match_early_stopping(swapped, target),
    }
    for setting, control in found.items():
        assert control.settings() == again[setting].settings()
        assert control.predictions.test.labels.tolist() != again[setting].predictions.test.labels.tolist()
        assert control.validation_accuracy >= target - 0.1
    for setting in ("density", "steps"):
        assert found[setting].validation_accuracy >= target
    monkeypatch.setattr(controls, "ALPHAS", (found["alpha"].value,))
    assert match_interpolation(bench, head, target).validation_accuracy == found["alpha"].validation_accuracy


def test_a_target_below_the_base_is_reached_at_once(bench: SingleRun) -> None:
    head = bench.open(bench.recipe.base)
    assert match_interpolation(bench, head, 0.0).value == controls.ALPHAS[0]
    assert match_larger_random(bench, head, 0.0, k_of(bench)).value == pytest.approx(0.03, abs=0.01)
    assert match_early_stopping(bench, 0.01).value == 80 // controls.CHECKS
    few = ("train.localizable={density: 0.05, proximal_epochs: 1, epochs: 15}", "train.epochs=5")
    task = Task.load(bench.task.folder / "task.yaml", few).with_seed(0)
    confined = SingleRun(bench.recipe, task, context=bench.context)
    assert match_early_stopping(confined, 0.01).value == 3 * 80 // controls.CHECKS  # of the training that can stop
    assert match_early_stopping(bench, 0.0).value == 80 // controls.CHECKS


def test_random_entries_that_rounding_alone_moved_are_not_counted(bench: SingleRun, tmp_path: Path) -> None:
    mixed, rounded, _ = write_rounded(Path(bench.recipe.base), tmp_path)
    localize = dataclasses.replace(bench.recipe.localize, density=0.9)
    recipe = dataclasses.replace(bench.recipe, base=str(mixed), localize=localize)
    run = SingleRun(recipe, bench.task, context=bench.context)
    vars(run)["pair"] = CheckpointPair.open(mixed, rounded)
    assert run.count_changed() == 2
    found = match_larger_random(run, run.open(mixed), 0.0, k_of(run))
    assert found.value * run.pair.base.n_parameters == pytest.approx(2)


def test_random_entries_begin_at_the_number_that_the_graft_has(
    bench: SingleRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[float] = []

    def take_first(settings: Sequence[float], *_: Any, **__: Any) -> Match:
        begun.append(settings[0])
        return Match(settings[0], 1.0)

    monkeypatch.setattr(controls, "match_accuracy", take_first)
    localize = dataclasses.replace(bench.recipe.localize, structure="columns", lines=3)  # 0.03 is 617 entries
    analysis = dataclasses.replace(bench.recipe.analysis, controls=("larger_random",))
    recipe = dataclasses.replace(bench.recipe, localize=localize, analysis=analysis)
    run = SingleRun(recipe, bench.task, context=bench.context)
    patch = run.localize("magnitude")
    assert len(patch) < 200
    _measure_controls(run, patch, {})
    assert begun == [len(patch) / run.count_changed()]


def test_a_target_that_nothing_reaches_ends_with_the_whole_of_tuning(
    bench: SingleRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = bench.open(bench.recipe.base)
    tuned = bench.predict_test(bench.open(bench.tuned)).logits
    larger = match_larger_random(bench, head, 1.01, k_of(bench))
    assert larger.validation_accuracy <= 1
    monkeypatch.setattr(controls, "ALPHAS", (1.0,))
    mixed = match_interpolation(bench, head, 1.01).predictions.test.logits
    assert mixed == pytest.approx(tuned)


def test_a_recipe_without_a_curve_has_no_points(bench: SingleRun) -> None:
    plain = SingleRun(recipe_of(Path(bench.recipe.base), {}), bench.task, context=bench.context)
    assert trace_curve(plain, 0.5, 0.9) == []


def test_a_density_that_the_structure_cannot_have_costs_its_point_alone(
    bench: SingleRun, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(Path(bench.recipe.base), {"curve": {"densities": [1e-9, 1e-3, 0.05]}})
    localize = dataclasses.replace(recipe.localize, budget=None, lines=5, structure="columns")
    run = dataclasses.replace(bench, recipe=dataclasses.replace(recipe, localize=localize), located={})
    assert [(point.method, point.density) for point in trace_curve(run, 0.5, 0.9)] == [
        ("magnitude", 0.05),
        ("random", 0.05),
    ]
    said = capsys.readouterr().err
    for method in ("magnitude", "random"):
        assert (
            f"note: {method} at density 0.001 is left out of the curve: no line of a matrix fits a budget of 2" in said
        )
    assert "note: density 1e-09 is left out of the curve: it keeps no entry" in said


def test_controls_of_the_patch_are_measured_beside_it_and_along_the_curve(bench: SingleRun, tmp_path: Path) -> None:
    shutil.copytree(bench.tuned, tmp_path / "tuned")
    names = [name for name in CONTROLS if is_made_of_patch(name)]
    analysis = {"controls": [], "curve": {"densities": [0.03, 0.1], "methods": ["magnitude", "random_rows"]}}
    recipe = dataclasses.replace(recipe_of(Path(bench.recipe.base), analysis), controls=tuple(names))
    run = dataclasses.replace(bench, recipe=recipe, context=SeedContext(0, tmp_path, tmp_path / "p"), located={})
    found = run_seed(run)
    assert list(found.models) == ["base", "tuned", "graft (magnitude)", *(graft_name(name) for name in names)]
    patches = {file.name for file in (tmp_path / "p").iterdir()}
    assert patches == {f"{name}-seed-0.safetensors" for name in ("magnitude", *names) if name != "constant_shift"}
    sizes = {(point.method, point.density): point.k for point in found.curve}
    assert len(sizes) == 4
    assert all(sizes["random_rows", density] == sizes["magnitude", density] for density in (0.03, 0.1))
    split = split_gain([found], name_models(recipe.methods))
    assert split is not None
    assert [item.control for item in split.shares] == names
