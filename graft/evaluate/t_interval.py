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


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> dict[str, Any]:
    """Divide the mean of parts by the mean of their wholes, one of each a seed.

    A mean of ratios would be decided by the seed whose whole is nearest to 0. The variance is that of the linearized
    ratio, of the residuals part - ratio · whole (Cochran 1977, section 6.3).

    Returns:
        "mean", the ratio; "half", the half-width of its 95 % t-interval over seeds, None for one seed; and "values",
        each part by the mean whole.

    Raises:
        ZeroDivisionError: the wholes' mean is 0.
    """
    whole = sum(wholes) / len(wholes)
    ratio = sum(parts) / len(parts) / whole
    residuals = [(part - ratio * own) / whole for part, own in zip(parts, wholes, strict=True)]
    return {"mean": ratio, "half": mean_interval(residuals)["half"], "values": [part / whole for part in parts]}


def mean_intervals(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Average the metrics of several seeds, as `mean_interval` does; one that a seed lacks is left out."""
    return {key: mean_interval([row[key] for row in rows]) for key in rows[0] if all(key in row for row in rows)}
