"""Gain, general change and which points others dominate, of a recipe about forgetting over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graft.evaluate.rounding import dominates, reaches
from graft.evaluate.t_interval import mean_interval
from graft.recipes.forgetting.flips import flips_of
from graft.recipes.forgetting.seed_run import MeasuredTask, is_text
from graft.results.seeds import ForgettingSeed, MeasuredPoint
from graft.specs.forgetting import MEAN

Unit = Literal["points", "nats"]
Seeds = Sequence[ForgettingSeed]
Row = dict[str, Any]  # "figures": metric -> mean, half, values; "beaten_by": a point, or None
Summary = Mapping[str, Mapping[str, Row]]  # domain, or "mean" -> point -> row

SCALE = {"points": 100.0, "nats": 1.0}
# figures of a point, beside which those of the general tasks stand by the tasks' names
FIGURES = frozenset(
    ("gain", "general", "validation_gain", "validation_general", "gain_against", "general_against", "seconds")
)


@dataclass(frozen=True)
class Units:
    """Units of scores: points of accuracy, or nats per token.

    Attributes:
        general: of the mean over general tasks: that of the first one.
        counted: the general tasks in that unit, over which the mean is.
        others: the other general tasks, which the tables show by themselves.
        domains: of each; the mean over domains is over those in the first one's.
    """

    general: Unit
    counted: tuple[str, ...]
    others: tuple[str, ...]
    domains: Mapping[str, Unit]

    @classmethod
    def of(cls, general: Sequence[MeasuredTask], domains: Sequence[MeasuredTask]) -> Units:
        """Return the units of these tasks."""
        units = {setting.name: _unit(setting) for setting in general}
        first = next(iter(units.values()))
        counted = tuple(name for name, unit in units.items() if unit == first)
        others = tuple(name for name in units if name not in counted)
        return cls(first, counted, others, {setting.name: _unit(setting) for setting in domains})

    @property
    def averaged(self) -> list[str]:
        """The domains over which the mean is."""
        first = next(iter(self.domains.values()))
        return [name for name, unit in self.domains.items() if unit == first]

    def of_domain(self, domain: str) -> Unit:
        """Return the unit of a domain's gain, or of the mean's."""
        return self.domains[self.averaged[0] if domain == MEAN else domain]

    def of_task(self, task: str) -> Unit:
        """Return the unit of a general task."""
        if task in self.counted:
            return self.general
        return "nats" if self.general == "points" else "points"

    def to_json(self) -> dict[str, Any]:
        """Return the units as plain data."""
        return {"general": self.general, "counted": list(self.counted), "domains": dict(self.domains)}


def _unit(setting: MeasuredTask) -> Unit:
    return "nats" if is_text(setting.task) else "points"


def summarize(seeds: Seeds, units: Units) -> dict[str, dict[str, Row]]:
    """Return domain, or "mean" over them -> point -> estimates over seeds, and a point that beats it.

    Estimates with their 95 % t-intervals, all of test unless they say otherwise, as changes from the start in points of
    accuracy or nats: "gain" on the domain; "general", the mean over general tasks, negative where something was lost;
    "validation_gain", "validation_general"; "gain_against", "general_against", what the seed's first point has taken
    off; each general task by its name, and its flips (`flips_of`); "seconds" of training and localizing, few where the
    training is another point's too.

    A point is beaten where another one, or doing nothing, is on the means of validation at least as good on both the
    domain and the general tasks, and better on one of them.
    """
    changes = {name: [_changes(seed, name, units) for seed in seeds] for name in units.domains}
    changes[MEAN] = [_average([changes[name][i] for name in units.averaged]) for i in range(len(seeds))]
    return {name: _over_seeds(rows) for name, rows in changes.items() if name != MEAN or len(units.averaged) > 1}


def _changes(seed: ForgettingSeed, domain: str, units: Units) -> dict[str, dict[str, float]]:
    """Return point -> metric -> value, of one seed."""
    before = seed.base if seed.start is None else seed.start
    return {point: _change(before, after, domain, units) for point, after in seed.domains[domain].items()}


def _change(before: Mapping[str, Any], after: MeasuredPoint, domain: str, units: Units) -> dict[str, float]:
    def moved(task: str, split: str, unit: Unit) -> float:
        """Return by how much the score of a task moved, in its unit."""
        return SCALE[unit] * float(after.figures[task][split]["score"] - before[task][split]["score"])

    result: dict[str, float] = {}
    for split, prefix in (("test", ""), ("validation", "validation_")):
        result[f"{prefix}gain"] = moved(domain, split, units.domains[domain])
        each = [moved(task, split, units.general) for task in units.counted]
        result[f"{prefix}general"] = float(np.mean(each))
    tasks = {task: moved(task, "test", units.of_task(task)) for task in (*units.counted, *units.others)}
    for task in (*units.counted, *units.others):
        result |= flips_of(task, before[task]["test"]["score"], after.figures[task]["test"])
    return result | tasks | {"seconds": after.seconds}


def _average(domains: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    first = domains[0]
    return {
        point: {key: float(np.mean([rows[point][key] for rows in domains])) for key in first[point]} for point in first
    }


def _over_seeds(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Row]:
    metrics = {
        point: {key: mean_interval([row[point][key] for row in rows]) for key in rows[0][point]} for point in rows[0]
    }
    first = next(iter(rows[0]))
    for point, estimates in metrics.items():
        for key in ("gain", "general"):  # in pairs: the seeds' draws of examples move all points alike
            estimates[f"{key}_against"] = mean_interval([row[point][key] - row[first][key] for row in rows])
    dominated = find_dominated({point: _position_of(row) for point, row in metrics.items()})
    return {point: {"figures": row, "beaten_by": dominated[point]} for point, row in metrics.items()}


def _position_of(row: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    return row["validation_gain"]["mean"], row["validation_general"]["mean"]


def find_dominated(positions: Mapping[str, tuple[float, float]]) -> dict[str, str | None]:
    """Return point -> another that is as good on both axes and better on one, the best of them by gain, or None.

    Args:
        positions: point -> two numbers, higher is better. Doing nothing, at (0, 0), is one of the rivals.
    """
    # with a at (3, -1), b at (2, -1) and c at (-1, -2): a dominates b and c, b dominates c, and doing nothing dominates
    # c alone; of the three that dominate c, a has the largest gain and is named. Equal points spare each other
    rivals = {**positions, "doing nothing": (0.0, 0.0)}

    def best_of(names: Sequence[str]) -> str:
        """Return the best by gain; of those as good, by the general tasks."""
        most = max(rivals[name][0] for name in names)
        return max((name for name in names if reaches(rivals[name][0], most)), key=lambda name: rivals[name][1])

    winners = {
        point: [name for name in rivals if dominates(rivals[name], position)] for point, position in positions.items()
    }
    return {point: best_of(names) if names else None for point, names in winners.items()}
