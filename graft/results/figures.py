"""Metrics of a model on each set: accuracy, calibration and more, with their bootstrap intervals.

They stand in the results of a run and in the provenance of a patch, and are read here from both: strictly from a run's
file, whose errors name the place, and leniently from a patch, where what is no number is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.results.json_node import Node

TEST = "test"  # the held-out split, beside the names of the out-of-distribution sets
MOST_SETS = 40


@dataclass(frozen=True)
class SetFigures:
    """Metrics of one model on one set.

    Attributes:
        numbers: metric -> number; "n" is how many examples are behind them.
        intervals: metric -> (low, high), the 95 % bootstrap interval over examples, of those that have one.
        detection: how well novel rows are told from the task's, as JSON; empty where a set has none.
    """

    numbers: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    detection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of examples behind the metrics, 0 where that is unknown."""
        n: Any = self.numbers.get("n")
        return n if type(n) is int and n > 0 else 0

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, the intervals as `ci` and the detection."""
        more = {"detection": self.detection} if self.detection else {}
        return {**self.numbers, "ci": {key: list(ends) for key, ends in self.intervals.items()}, **more}

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> SetFigures:
        """Take one set of a `Report` as JSON, which is not checked."""
        numbers = {key: value for key, value in report.items() if isinstance(value, (int, float))}
        intervals = {key: (low, high) for key, (low, high) in report.get("ci", {}).items()}
        return cls(numbers, intervals, report.get("detection", {}))

    @classmethod
    def from_node(cls, node: Node) -> SetFigures:
        """Read one set; DataError where accuracy or ECE is missing or an interval is none."""
        detection = node.get("detection")
        if detection is None or node.numbers().get("n"):  # a set of novel rows alone has detection and no accuracy
            for key in ("accuracy", "ece"):
                node.need(key).number()
        ci = node.get("ci")
        pairs = {name: [end.number() for end in item.elements()] for name, item in ci.items()} if ci else {}
        if ci and any(len(ends) != 2 for ends in pairs.values()):
            ci.refuse("pairs of numbers")
        intervals = {name: (ends[0], ends[1]) for name, ends in pairs.items()}
        return cls(node.numbers(), intervals, detection.value if detection else {})


class ModelFigures(dict[str, SetFigures]):
    """Metrics of one model by set, the test split first."""

    def to_json(self) -> dict[str, Any]:
        """Return the test split's metrics, and those of the other sets as `ood`."""
        sets = {name: figures.to_json() for name, figures in self.items()}
        test = sets.pop(TEST)
        return test | ({"ood": sets} if sets else {})

    def flatten(self) -> dict[str, float]:
        """Return the plain numbers: "METRIC" of the test split, "SET.METRIC" of the others."""
        return {
            key if name == TEST else f"{name}.{key}": float(value)
            for name, figures in self.items()
            for key, value in figures.numbers.items()
        }

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> ModelFigures:
        """Take a `Report` as JSON, which is not checked."""
        return cls({name: SetFigures.of(item) for name, item in {TEST: report, **report.get("ood", {})}.items()})

    @classmethod
    def from_node(cls, node: Node) -> ModelFigures:
        """Read what `to_json`, or a `Report`, wrote."""
        ood = node.get("ood")
        others = {name: SetFigures.from_node(item) for name, item in ood.items() if name != TEST} if ood else {}
        return cls({TEST: SetFigures.from_node(node), **others})


def read_figures(metrics: Mapping[str, Any] | None) -> dict[str, SetFigures]:
    """Return the metrics that a patch carries, of the test split first; what is no number is left out.

    Args:
        metrics: of a patch's provenance, which may be a stranger's.

    Returns:
        set -> metrics, of sets with examples and a number.
    """
    if not isinstance(metrics, Mapping):
        return {}
    ood = metrics.get("ood")
    sets = {TEST: metrics, **({str(name): item for name, item in ood.items()} if isinstance(ood, Mapping) else {})}
    figures = {name: _collect(item) for name, item in list(sets.items())[:MOST_SETS] if isinstance(item, Mapping)}
    return {name: item for name, item in figures.items() if item.n and item.numbers.keys() - {"n"}}


def _collect(item: Mapping[str, Any]) -> SetFigures:
    return SetFigures({key: value for key, value in item.items() if is_number(value)}, dict(_intervals(item.get("ci"))))


def _intervals(value: Any) -> Iterator[tuple[str, tuple[float, float]]]:
    for key, ends in value.items() if isinstance(value, Mapping) else ():
        if isinstance(ends, (list, tuple)) and len(ends) == 2 and all(map(is_number, ends)):
            yield str(key), (float(ends[0]), float(ends[1]))


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
