"""Base, tuned and grafted models side by side: recovered gain, agreement, paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from graft.evaluate.bootstrap import Difference, Metric, paired_differences
from graft.evaluate.calibration import brier_score, expected_calibration_error, negative_log_likelihood
from graft.evaluate.correctness import accuracy
from graft.evaluate.detection import detect_foreign
from graft.evaluate.evaluation import Prediction, Predictions, predict_model
from graft.evaluate.necessity import lost_gain
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.report import Report
from graft.patch.skill_patch import Patch
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.task import Task

COMPARED: dict[str, Metric] = {
    "accuracy": accuracy,
    "ece": expected_calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier_score,
}


def evaluate_against(
    base: str | Path,
    tuned: str | Path | None,
    task: Task,
    *,
    patches: tuple[Patch, ...] = (),
    limit: int | None = None,
    batch_size: int = 64,
    runtime: Runtime = DEFAULT,
) -> Report:
    """Evaluate as `evaluate_task` does the base with patches, with detection of novel rows wherever a set has any.

    Args:
        base: the model.
        tuned: the tuned model, for agreement with it and recovered gain; None for neither.
        task: the task.
        patches: applied to the base.
        limit, batch_size: as of `evaluate_task`.
        runtime: where and in what precision.

    Raises:
        PatchMismatchError, CheckpointError, DataError, ConfigError.
    """
    predict = partial(predict_model, limit=limit, batch_size=batch_size, runtime=runtime)
    grafted = predict(base, task, patches)
    report = grafted.report() if tuned is None else compare(grafted, predict(base, task), predict(tuned, task))
    return dataclasses.replace(report, detection=detect_foreign(grafted))


def compare(graft: Predictions, base: Predictions, tuned: Predictions) -> Report:
    """The graft's report, with its recovered gain and its agreement with the tuned model on every set."""
    report = graft.report()
    ood = {name: _related(report.ood[name], graft.ood[name], base.ood[name], tuned.ood[name]) for name in report.ood}
    return dataclasses.replace(_related(report, graft.test, base.test, tuned.test), ood=ood)


def compare_without(without: Predictions, base: Predictions, tuned: Predictions) -> Report:
    """The report of the tuned model without a region, as `compare` with its lost gain on every set."""
    report = compare(without, base, tuned)

    def lost(report: Report, base: Prediction, tuned: Prediction) -> Report:
        ends = (accuracy(item.outcomes()) for item in (base, tuned))
        return dataclasses.replace(report, lost_gain=lost_gain(report["accuracy"], *ends))

    ood = {name: lost(report.ood[name], base.ood[name], tuned.ood[name]) for name in report.ood}
    return dataclasses.replace(lost(report, base.test, tuned.test), ood=ood)


def recovered_gain(graft: float, base: float, tuned: float) -> float | None:
    """(graft - base) / (tuned - base) on the task metric; None where tuning changed nothing."""
    return None if tuned == base else (graft - base) / (tuned - base)


def agreement(left: Outcomes, right: Outcomes) -> float:
    """Share of examples on which two models predict the same class."""
    return float((left.predicted == right.predicted).mean())


def differences(
    graft: Predictions, others: Mapping[str, Predictions], *, seed: int = 0
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Model -> set -> metric -> graft minus that model, with 95 % intervals from the same resampled examples."""
    sets = {name: item.outcomes() for name, item in graft.labelled().items()}
    found: dict[str, dict[str, dict[str, Difference]]] = {model: {} for model in others}
    for name, outcomes in sets.items():
        columns = {model: other.labelled()[name].outcomes() for model, other in others.items()}
        for model, metrics in paired_differences(outcomes, columns, COMPARED, seed=seed).items():
            found[model][name] = metrics
    return found


def _related(report: Report, graft: Prediction, base: Prediction, tuned: Prediction) -> Report:
    before, after = base.outcomes(), tuned.outcomes()
    return dataclasses.replace(
        report,
        agreement=agreement(graft.outcomes(), after),
        recovered_gain=recovered_gain(report["accuracy"], accuracy(before), accuracy(after)),
    )
