"""Comparison of base, tuned and grafted models: recovered gain, agreement, paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

from graft.evaluate.bootstrap import Difference, paired_differences
from graft.evaluate.correctness import accuracy
from graft.evaluate.detection import detect_ood
from graft.evaluate.evaluation import Prediction, Predictions, predict_model
from graft.evaluate.necessity import lost_gain
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.registry import metrics_shown
from graft.evaluate.report import Report
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model, open_model, refuse_idle_base
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.task import Task


def evaluate_against(
    base: Model,
    tuned: Model | None,
    task: Task,
    *,
    patches: tuple[Patch, ...] = (),
    adapter_base: Model | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    runtime: Runtime = DEFAULT,
) -> Report:
    """Evaluate the base with patches as `evaluate_task` does, with detection of novel rows in every set that has any.

    Args:
        base: the model.
        tuned: the tuned model, for agreement with it and recovered gain; None for neither.
        task: the task.
        patches: applied to the base.
        adapter_base: the base of those of the two that are adapters; the one that an adapter's config names where
            absent.
        limit, batch_size: as for `evaluate_task`.
        runtime: device and precision.

    Raises:
        PatchMismatchError, CheckpointError, DataError, ConfigError: an input is refused; the line says which and why.
    """
    predict = partial(predict_model, limit=limit, batch_size=batch_size, runtime=runtime)
    opened = [open_model(model, base=adapter_base) for model in (base, tuned) if model is not None]
    refuse_idle_base(adapter_base, *opened)
    grafted = predict(opened[0], task, patches)
    report = grafted.report() if tuned is None else compare(grafted, *(predict(model, task) for model in opened))
    return dataclasses.replace(report, detection=detect_ood(grafted))


def compare(graft: Predictions, base: Predictions, tuned: Predictions) -> Report:
    """Return the graft's report, with its recovered gain and its agreement with the tuned model on every set."""
    report = graft.report()
    ood = {
        name: _add_comparison(report.ood[name], graft.ood[name], base.ood[name], tuned.ood[name]) for name in report.ood
    }
    return dataclasses.replace(_add_comparison(report, graft.test, base.test, tuned.test), ood=ood)


def compare_without(without: Predictions, base: Predictions, tuned: Predictions) -> Report:
    """Return the report of the tuned model without a region, as `compare` with its lost gain on every set."""
    report = compare(without, base, tuned)

    def add_lost_gain(report: Report, base: Prediction, tuned: Prediction) -> Report:
        """Return a report with the share of the gain that is lost."""
        accuracies = (accuracy(item.outcomes()) for item in (base, tuned))
        return dataclasses.replace(report, lost_gain=lost_gain(report["accuracy"], *accuracies))

    ood = {name: add_lost_gain(report.ood[name], base.ood[name], tuned.ood[name]) for name in report.ood}
    return dataclasses.replace(add_lost_gain(report, base.test, tuned.test), ood=ood)


def recovered_gain(graft: float, base: float, tuned: float) -> float | None:
    """Return (graft - base) / (tuned - base) on the task metric; None where tuning gained nothing.

    Of a loss it would be a share too, and 1 where the graft loses as much as tuning did.
    """
    return None if tuned <= base else (graft - base) / (tuned - base)


def agreement(left: Outcomes, right: Outcomes) -> float:
    """Return the share of examples on which two models predict the same class."""
    return float((left.predicted == right.predicted).mean())


def differences(
    graft: Predictions, others: Mapping[str, Predictions], *, seed: int = 0
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Compute model -> set -> metric -> graft minus that model, with 95 % intervals from shared resamples."""
    metrics = {name: entry.load() for name, entry in metrics_shown("comparison").items()}
    by_set = {name: item.outcomes() for name, item in graft.labeled().items()}
    by_model: dict[str, dict[str, dict[str, Difference]]] = {model: {} for model in others}
    for name, outcomes in by_set.items():
        of_others = {model: other.labeled()[name].outcomes() for model, other in others.items()}
        for model, compared in paired_differences(outcomes, of_others, metrics, seed=seed).items():
            by_model[model][name] = compared
    return by_model


def _add_comparison(report: Report, graft: Prediction, base: Prediction, tuned: Prediction) -> Report:
    base_outcomes, tuned_outcomes = base.outcomes(), tuned.outcomes()
    return dataclasses.replace(
        report,
        agreement=agreement(graft.outcomes(), tuned_outcomes),
        recovered_gain=recovered_gain(report["accuracy"], accuracy(base_outcomes), accuracy(tuned_outcomes)),
    )
