"""Figures of several seeds: their means, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# two-sided 95 % quantiles of Student's t for 1 ... 9 degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and half-width t * s / sqrt(n) of the 95 % interval over seeds; None for one seed.

    Above ten seeds t stays that of ten, which is a little too wide.
    """
    n = len(values)
    mean = sum(values) / n
    half = None
    if n > 1:
        variance = sum((value - mean) ** 2 for value in values) / (n - 1)
        half = _T[min(n - 2, len(_T) - 1)] * math.sqrt(variance / n)
    return {"mean": mean, "half": half, "values": list(values)}
