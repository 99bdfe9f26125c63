"""One seed of a recipe: fine-tune, localise, graft, measure; everything it finds as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graft.config import to_plain
from graft.evaluate.calibration import ReliabilityBins, reliability_bins
from graft.evaluate.comparison import compare, compare_without, differences
from graft.evaluate.correctness import accuracy
from graft.evaluate.detection import detect_ood
from graft.evaluate.evaluation import Predictions
from graft.evaluate.necessity import cut_removal
from graft.evaluate.report import Report
from graft.localize.diagnosis import diagnose_movement
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.recipes.bench import Bench, graft_name
from graft.recipes.clock import Clock
from graft.recipes.controls import NAMES, Control, match_early_stopping, measure_blends, scale_tuned
from graft.recipes.curve import trace_curve
from graft.recipes.spec import RecipeSpec
from graft.specs.runtime import Runtime
from graft.tasks.task import Task
from graft.train.fine_tuning import find_training, train_task

Models = dict[str, Predictions]


def run_seed(recipe: RecipeSpec, task: Task, seed: int, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Run one seed into `folder`: the tuned checkpoint, one patch per method, and the returned figures.

    A checkpoint that an earlier try left in `folder` is taken up where it was made with the same settings.

    Returns:
        seed, k; models: name -> Report as JSON; differences: name -> the main graft minus it; bins: name ->
        reliability bins on test; seconds: of each stage. Where the recipe's `analysis` asks for it also controls:
        name -> how it was matched; curve: points over density; detection: set -> name -> figures; diagnosis: of the
        tuned checkpoint, in numbers and in words (`text`).
    """
    bench, clock = Bench(recipe, task.with_seed(seed), seed, folder, runtime), Clock()
    _train(bench)
    clock.lap("train")
    patches = {graft_name(method): bench.localize(method) for method in recipe.methods}
    clock.lap("localize")
    models = _measure_grafts(bench, patches)
    clock.lap("evaluate")
    controls = _measure_controls(bench, patches[bench.main], models)
    models |= {name: control.predictions for name, control in controls.items()}
    clock.lap("controls")
    without = _measure_without(bench, patches) if recipe.analysis.necessity else {}
    clock.lap("necessity")
    ends = [accuracy(models[name].test.outcomes()) for name in ("base", "tuned")]
    curve = trace_curve(bench, *ends)
    clock.lap("curve")
    reports = _report(models, without)
    for name, patch in patches.items():
        _save(patch, reports[name], folder / f"{patch.provenance.method['method']}.safetensors")
    result = {"seed": seed, "k": len(patches[bench.main]), **_describe(bench.main, models | without, reports)}
    result |= {"controls": {name: control.to_json() for name, control in controls.items()}, "curve": curve}
    if recipe.analysis.detection:
        result["detection"] = _detect(models | without)
    if recipe.analysis.diagnosis:
        found = diagnose_movement(recipe.base, bench.tuned, scope=recipe.localize.scope)
        result["diagnosis"] = found.to_json() | {"text": list(found.sentences)}
    return result | {"seconds": clock.seconds}


def bins_to_json(bins: ReliabilityBins) -> dict[str, list[float | None]]:
    """Reliability bins as plain lists; the means of empty bins are null."""
    arrays = {field.name: getattr(bins, field.name) for field in dataclasses.fields(bins)}
    return {key: [None if np.isnan(x) else float(x) for x in values] for key, values in arrays.items()}


def bins_from_json(value: dict[str, list[float | None]]) -> ReliabilityBins:
    """The bins that `bins_to_json` wrote."""
    return ReliabilityBins(**{key: np.array(items, dtype=float) for key, items in value.items()})


def _train(bench: Bench) -> None:
    """Fine-tune, or take up the checkpoint of an earlier try at the same."""
    base, task = bench.recipe.base, bench.task
    if find_training(base, task, bench.tuned, dtype=bench.runtime.dtype) is None:
        train_task(base, task, bench.tuned, **bench.runtime.options, resume=True, force=True)


def _measure_grafts(bench: Bench, patches: Mapping[str, Patch]) -> Models:
    head = bench.open(bench.recipe.base)
    models = {"base": bench.predict(head), "tuned": bench.predict(bench.open(bench.tuned))}
    for name, patch in patches.items():
        with apply_patch(head.model, patch):
            models[name] = bench.predict(head)
    return models


def _measure_controls(bench: Bench, patch: Patch, models: Mapping[str, Predictions]) -> dict[str, Control]:
    """The controls that the recipe asks for, in the order of `NAMES`."""
    asked, found = bench.recipe.analysis.controls, {}
    if "temperature" in asked and models["tuned"].test.logits.shape[1]:  # a language model has no label's logits
        found[NAMES["temperature"]] = scale_tuned(bench, bench.open(bench.tuned), models["tuned"])
    if set(asked) - {"temperature"}:
        head = bench.open(bench.recipe.base)
        with apply_patch(head.model, patch):
            target = bench.validate(head)
        found |= measure_blends(bench, head, target)
        if "early_stopping" in asked:
            found[NAMES["early_stopping"]] = match_early_stopping(bench, target)
    return {name: found[name] for name in NAMES.values() if name in found}


def _measure_without(bench: Bench, patches: Mapping[str, Patch]) -> Models:
    """The tuned model with the main patch's region put back to the base, and with a random one of the same size."""
    head, models = bench.open(bench.tuned), {}
    wanted = {bench.main, graft_name("random")}
    for name, patch in ((name, patch) for name, patch in patches.items() if name in wanted):
        with apply_patch(head.model, cut_removal(bench.recipe.base, bench.tuned, patch.mask)):
            models[name.replace("graft", "tuned without")] = bench.predict(head)
    return models


def _report(models: Mapping[str, Predictions], without: Mapping[str, Predictions]) -> dict[str, Report]:
    base, tuned = models["base"], models["tuned"]
    reports = {name: item.report() for name, item in models.items() if name in ("base", "tuned")}
    reports |= {name: compare(item, base, tuned) for name, item in models.items() if name not in reports}
    return reports | {name: compare_without(item, base, tuned) for name, item in without.items()}


def _describe(main: str, models: Mapping[str, Predictions], reports: Mapping[str, Report]) -> dict[str, Any]:
    others = {name: item for name, item in models.items() if name != main}
    return {
        "models": {name: report.to_json() for name, report in reports.items()},
        "differences": to_plain(differences(models[main], others)),
        "bins": {name: bins_to_json(reliability_bins(item.test.outcomes())) for name, item in models.items()},
    }


def _detect(models: Mapping[str, Predictions]) -> dict[str, dict[str, Any]]:
    """Set -> model -> detection figures, for the sets with rows of novel classes."""
    found = {name: detect_ood(item) for name, item in models.items()}
    return {of: {name: found[name][of] for name in found} for of in next(iter(found.values()))}


def _save(patch: Patch, report: Report, path: Path) -> None:
    provenance = dataclasses.replace(patch.provenance, metrics=report.to_json())
    save_patch(dataclasses.replace(patch, provenance=provenance), path, force=True)
