"""Run one seed of a recipe of one task: fine-tune, localize, graft, measure."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from graft.controls.application import Graft, measure_own_share, put_on
from graft.controls.registry import is_made_of_patch
from graft.evaluate.calibration import reliability_bins
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
from graft.recipes.single.controls import MeasuredControl, match_early_stopping, measure_blends, scale_tuned
from graft.recipes.single.curve import trace_curve
from graft.recipes.single.seed_run import SingleRun
from graft.recipes.timer import Timer
from graft.results.figures import ModelFigures
from graft.results.models import CONTROL_NAMES, REFIT, TEACHER, graft_name, without_name
from graft.results.seeds import Detection, Diagnosis, Reliability, SingleSeed
from graft.train.fine_tuning import find_training, train_task

Models = dict[str, Predictions]


def run_seed(run: SingleRun) -> SingleSeed:
    """Run one seed: leave one patch per method, and the tuned checkpoint in the seed's state; return its results.

    A checkpoint that an earlier try left is taken up where it was made with the same settings.
    """
    timer = Timer()
    _train(run)
    timer.mark("train")
    grafts = {method: run.find_graft(method) for method in run.recipe.methods}
    timer.mark("localize")
    models = _measure_grafts(run, grafts)
    timer.mark("evaluate")
    patches = {method: graft for method, graft in grafts.items() if isinstance(graft, Patch)}
    patches |= _refit(run, models)
    timer.mark("refit")
    main = patches[run.recipe.main]
    controls = _measure_controls(run, main, models)
    models |= {name: control.predictions for name, control in controls.items()}
    timer.mark("controls")
    without = _measure_without(run, patches) if run.recipe.analysis.necessity else {}
    timer.mark("necessity")
    ends = [accuracy(models[name].test.outcomes()) for name in ("base", "tuned")]
    curve = trace_curve(run, *ends)
    timer.mark("curve")
    reports = _report(models, without)
    for method, patch in patches.items():
        _save(patch, reports[graft_name(method)], run.context.patch_file(method))
    analysis, everything = run.recipe.analysis, models | without
    others = {name: item for name, item in everything.items() if name != run.main}
    return SingleSeed(
        seed=run.seed,
        k=len(main),
        models={name: ModelFigures.of(report.to_json()) for name, report in reports.items()},
        differences=differences(models[run.main], others),
        bins={name: Reliability.of(reliability_bins(item.test.outcomes())) for name, item in everything.items()},
        controls={name: control.settings() for name, control in controls.items()},
        curve=tuple(curve),
        detection=_detect(everything) if analysis.detection else {},
        diagnosis=_diagnose(run) if analysis.diagnosis else None,
        own_shares=_find_own_shares(run, grafts),
        seconds=timer.seconds,
    )


def _find_own_shares(run: SingleRun, grafts: Mapping[str, Graft]) -> dict[str, float]:
    """Return the share of each control's entries that are those of the patch that it is made of."""
    of = grafts[run.recipe.localize.method]
    assert isinstance(of, Patch)
    made = {name: measure_own_share(graft, of) for name, graft in grafts.items() if is_made_of_patch(name)}
    return {graft_name(name): share for name, share in made.items() if share is not None}


def _train(run: SingleRun) -> None:
    """Fine-tune, or take up the checkpoint of an earlier try at the same."""
    base, task = run.recipe.base, run.task
    if find_training(base, task, run.tuned, dtype=run.runtime.dtype) is None:
        train_task(base, task, run.tuned, **run.runtime.options, resume=True, force=True)


def _measure_grafts(run: SingleRun, grafts: Mapping[str, Graft]) -> Models:
    head = run.open(run.recipe.base)
    models = {"base": run.predict_base(head), "tuned": run.predict(run.open(run.tuned))}
    for method, graft in grafts.items():
        with put_on(head.model, graft):
            models[graft_name(method)] = run.predict(head)
    return models


def _refit(run: SingleRun, models: Models) -> dict[str, Patch]:
    """Fit the patch that the recipe asks for; add its graft, and a teacher of its own, to `models`."""
    if run.recipe.refit is None:
        return {}
    teacher = run.train_teacher()
    patch = run.fit_refit(teacher)
    if teacher != run.tuned:
        models[TEACHER] = run.predict(run.open(teacher))
    head = run.open(run.recipe.base)
    with apply_patch(head.model, patch):
        models[graft_name(REFIT)] = run.predict(head)
    shutil.rmtree(run.models, ignore_errors=True)
    return {REFIT: patch}


def _measure_controls(run: SingleRun, patch: Patch, models: Mapping[str, Predictions]) -> dict[str, MeasuredControl]:
    """Measure the controls that the recipe asks for, in the order of `CONTROL_NAMES`."""
    asked, controls = run.recipe.analysis.controls, {}
    if "temperature" in asked:
        controls[CONTROL_NAMES["temperature"]] = scale_tuned(run, run.open(run.tuned), models["tuned"])
    if set(asked) - {"temperature"}:
        head = run.open(run.recipe.base)
        with apply_patch(head.model, patch):
            target = run.validate(head)
        controls |= measure_blends(run, head, target, len(patch))
        if "early_stopping" in asked:
            controls[CONTROL_NAMES["early_stopping"]] = match_early_stopping(run, target)
    return {name: controls[name] for name in CONTROL_NAMES.values() if name in controls}


def _measure_without(run: SingleRun, patches: Mapping[str, Patch]) -> Models:
    """Measure the tuned model with the main patch's region, and a random one of its size, put back to the base."""
    head, models = run.open(run.tuned), {}
    wanted = {run.recipe.main, "random"}
    for method in (method for method in patches if method in wanted):
        with apply_patch(head.model, cut_removal(run.recipe.base, run.tuned, patches[method].mask)):
            models[without_name(method)] = run.predict(head)
    return models


def _report(models: Mapping[str, Predictions], without: Mapping[str, Predictions]) -> dict[str, Report]:
    base, tuned = models["base"], models["tuned"]
    reports = {name: models[name].report() for name in ("base", "tuned")}
    others = {name: item for name, item in models.items() if name not in reports}
    reports |= {name: compare(item, base, tuned) for name, item in others.items()}
    return reports | {name: compare_without(item, base, tuned) for name, item in without.items()}


def _detect(models: Mapping[str, Predictions]) -> dict[str, dict[str, Detection]]:
    """Return set -> model -> detection, for the sets with rows of novel classes."""
    detected = {name: detect_ood(item) for name, item in models.items()}
    sets = next(iter(detected.values()))
    return {of: {name: Detection(detected[name][of]) for name in detected} for of in sets}


def _diagnose(run: SingleRun) -> Diagnosis:
    diagnosis = diagnose_movement(run.recipe.base, run.tuned, scope=run.recipe.localize.scope)
    return Diagnosis(tuple(diagnosis.sentences), diagnosis.to_json())


def _save(patch: Patch, report: Report, path: Path) -> None:
    provenance = dataclasses.replace(patch.provenance, metrics=report.to_json())
    save_patch(dataclasses.replace(patch, provenance=provenance), path, force=True)
