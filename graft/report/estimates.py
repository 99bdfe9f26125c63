"""Estimates over the seeds of a run: a mean, the interval that belongs to it, and who is ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from graft.evaluate.bootstrap import Difference
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.registry import is_higher_better
from graft.evaluate.t_interval import mean_interval
from graft.report.run_folder import RunFolder
from graft.results.cells import brackets, plus_minus
from graft.results.cells import decimal as plain_decimal
from graft.results.figures import TEST
from graft.results.seeds import SingleSeed

Verdict = Literal["ahead", "behind", "tie", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        mean: over seeds.
        low, high: the ends of its 95 % interval: Student's t over seeds where there are several, else the
            bootstrap over the test examples of the one seed; None where neither is known.
        values: of the seeds.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    @property
    def interval(self) -> str:
        """Interval as text: "± .012" over seeds, "[.780, .812]" over examples; "" without one or where seeds agree."""
        if self.low is None or self.high is None or self.high - self.low < 1e-9:
            return ""
        if len(self.values) > 1:
            return plus_minus((self.high - self.low) / 2, decimal)
        return brackets((self.low, self.high), decimal)

    def __str__(self) -> str:
        return f"{decimal(self.mean)} {self.interval}".strip()


@dataclass(frozen=True)
class Paired:
    """Main graft minus another model on the same examples.

    Attributes:
        estimate: over seeds (or, where `parts` is empty, over tasks).
        parts: of each seed, with the paired bootstrap interval over its examples.
        metric: what was compared.
    """

    estimate: Estimate
    parts: tuple[Difference, ...]
    metric: str

    @property
    def verdict(self) -> Verdict:
        """Verdict on the main graft; a tie where the interval holds 0."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None:
            return "unknown"
        if low <= 0 <= high:
            return "tie"
        return "ahead" if (low > 0) == is_higher_better(self.metric) else "behind"

    @property
    def apart(self) -> int:
        """Number of seeds whose paired interval over examples excludes 0 on the side of the mean."""
        return sum(part.low > 0 if self.estimate.mean > 0 else part.high < 0 for part in self.parts)


def decimal(number: float) -> str:
    """Return three decimals with a typographic minus."""
    return plain_decimal(number).replace("-", "−")


def average(values: Sequence[float], interval: tuple[float, float] | None = None) -> Estimate:
    """Average one number over seeds; `interval` is that of the examples and counts for one seed only."""
    over_seeds = mean_interval(values)
    mean, half = over_seeds["mean"], over_seeds["half"]
    low, high = (mean - half, mean + half) if half is not None else (interval or (None, None))
    return Estimate(mean, low, high, tuple(values))


def estimate_of(run: RunFolder, model: str, metric: str, name: str = TEST) -> Estimate | None:
    """Return a metric of a model on a set, None where a seed lacks it."""
    measured = [seed.models[model][name] for seed in run.seeds if name in seed.models.get(model, {})]
    values = [item.numbers[metric] for item in measured if metric in item.numbers]
    if len(values) < len(run.seeds):
        return None
    return average(values, measured[0].intervals.get(metric))


def gain_of(run: RunFolder, model: str) -> Estimate | None:
    """Return the recovered gain on test, None unless tuning raised accuracy and the model is there in every seed."""
    gains = [seed_gain(seed, accuracy_of(seed, model)) for seed in run.seeds]
    values = [gain for gain in gains if gain is not None]
    return average(values) if len(values) == len(run.seeds) else None


def seed_gain(seed: SingleSeed, accuracy: float | None) -> float | None:
    """Return (accuracy - base) / (tuned - base) in one seed, None where tuning raised nothing."""
    base, tuned = accuracy_of(seed, "base"), accuracy_of(seed, "tuned")
    if accuracy is None or base is None or tuned is None:
        return None
    return recovered_gain(accuracy, base, tuned)


def accuracy_of(seed: SingleSeed, model: str) -> float | None:
    """Return the accuracy of a model on test in one seed."""
    return seed.models[model][TEST].numbers["accuracy"] if model in seed.models else None


def difference_of(run: RunFolder, other: str, metric: str, name: str = TEST) -> Paired | None:
    """Return the main graft minus another model, None where a seed lacks it."""
    differences = [seed.differences.get(other, {}).get(name, {}).get(metric) for seed in run.seeds]
    parts = tuple(item for item in differences if item is not None)
    if len(parts) < len(run.seeds):
        return None
    return Paired(average([part.estimate for part in parts], (parts[0].low, parts[0].high)), parts, metric)


def over_tasks(pairs: Sequence[Paired]) -> Paired:
    """Return the mean over tasks of their mean differences, with Student's t over tasks."""
    return Paired(average([pair.estimate.mean for pair in pairs]), (), pairs[0].metric)


def models_of(run: RunFolder) -> list[str]:
    """Return the models that every seed has, in the order of the first."""
    return [name for name in run.seeds[0].models if all(name in seed.models for seed in run.seeds)]


def rivals_of(run: RunFolder) -> list[str]:
    """Return the models that the main graft is held against: all but itself and the tuned ones without a region."""
    return [name for name in models_of(run) if name != run.main and run.models[name].role != "without"]


def methods_of(run: RunFolder) -> list[str]:
    """Return the methods whose grafts every seed has, the main one first."""
    models = [run.models[name] for name in models_of(run)]
    methods = [model.method for model in models if model.role == "graft" and model.method is not None]
    return [run.method, *(method for method in methods if method != run.method)]


def controls_of(run: RunFolder) -> list[str]:
    """Return the controls that every seed has."""
    return [name for name in models_of(run) if run.models[name].role == "control"]


def sets_of(run: RunFolder) -> list[str]:
    """Return the sets that the main graft has in every seed, test first."""
    first = run.seeds[0].models[run.main]
    return [name for name in first if all(name in seed.models[run.main] for seed in run.seeds)]


def curve_of(run: RunFolder) -> dict[str, dict[float, dict[str, Estimate]]]:
    """Return method -> density, ascending -> metric -> over seeds; points that a seed lacks are left out."""
    table: dict[str, dict[float, list[Mapping[str, float]]]] = {}
    for seed in run.seeds:
        for point in seed.curve:
            numbers = {**point.numbers, "k": point.k}
            table.setdefault(point.method, {}).setdefault(point.density, []).append(numbers)
    return {
        method: {density: _means(rows) for density, rows in sorted(points.items()) if len(rows) == len(run.seeds)}
        for method, points in table.items()
    }


def _means(rows: list[Mapping[str, float]]) -> dict[str, Estimate]:
    shared = [key for key in rows[0] if all(key in row for row in rows)]
    return {key: average([row[key] for row in rows]) for key in shared}
