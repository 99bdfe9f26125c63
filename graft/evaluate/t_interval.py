"""Means over a few seeds, with Student's 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def flatten_report(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the plain numbers of a report: "METRIC" of the test split, "SET.METRIC" of the others."""
    numbers = {key: float(value) for key, value in report.items() if isinstance(value, (int, float))}
    for name, inner in report.get("ood", {}).items():
        numbers |= {f"{name}.{key}": float(value) for key, value in inner.items() if isinstance(value, (int, float))}
    return numbers


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Average the values of several seeds.

    Returns:
        "mean"; "half", the half-width t · s / √n of the 95 % interval over seeds, where t is Student's quantile with
        n - 1 degrees of freedom (12.7 for two seeds, 4.3 for three, 2.8 for five) and s the standard deviation with
        n - 1 in its denominator, None for one seed; and "values".
    """
    n = len(values)
    mean = sum(values) / n
    half = None
    if n > 1:
        from scipy.stats import t as student

        variance = sum((value - mean) ** 2 for value in values) / (n - 1)
        half = float(student.ppf(0.975, n - 1)) * math.sqrt(variance / n)
    return {"mean": mean, "half": half, "values": list(values)}


def short_decimal(number: float) -> str:
    """Write three decimals, without the 0 before the point and without the sign of what rounds to 0."""
    text = f"{number:.3f}".removeprefix("-") if abs(number) < 0.0005 else f"{number:.3f}"
    return text.replace("0.", ".", 1) if abs(number) < 1 else text  # 10.5 holds a "0." too
