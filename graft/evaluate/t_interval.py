"""Student's 95 % interval of a mean over a few seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


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


def mean_intervals(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Average the metrics of several seeds, as `mean_interval` does; one that a seed lacks is left out."""
    return {key: mean_interval([row[key] for row in rows]) for key in rows[0] if all(key in row for row in rows)}
