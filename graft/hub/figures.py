"""The figures that a patch carries, read as what they are: numbers out of a file that may be a stranger's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST_SETS = 40
SHOWN = ("accuracy", "ece")
TEST = "test"


@dataclass(frozen=True)
class SetFigures:
    """One model on one set.

    Attributes:
        name: "test", or the name of an out-of-distribution set.
        n: examples behind the figures.
        values: metric -> number; intervals: metric -> (low, high), of those that have one.
    """

    name: str
    n: int
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


def read_figures(metrics: Mapping[str, Any] | None) -> list[SetFigures]:
    """Figures of the test split first, then of each out-of-distribution set; what is no number is left out."""
    if not isinstance(metrics, Mapping):
        return []
    ood = metrics.get("ood")
    sets = {TEST: metrics, **({str(name): item for name, item in ood.items()} if isinstance(ood, Mapping) else {})}
    found = (_read(name, item) for name, item in list(sets.items())[:MOST_SETS] if isinstance(item, Mapping))
    return [figures for figures in found if figures.n and figures.values]


def _read(name: str, item: Mapping[str, Any]) -> SetFigures:
    n = item.get("n")
    values = {key: float(value) for key, value in item.items() if key != "n" and is_number(value)}
    intervals = dict(_intervals(item.get("ci")))
    return SetFigures(name, n if type(n) is int and n > 0 else 0, values, intervals)


def _intervals(value: Any) -> Iterator[tuple[str, tuple[float, float]]]:
    for key, ends in value.items() if isinstance(value, Mapping) else ():
        if isinstance(ends, (list, tuple)) and len(ends) == 2 and all(map(is_number, ends)):
            yield str(key), (float(ends[0]), float(ends[1]))


def is_number(value: object) -> bool:
    """A finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
