"""Areas under curves over density: one number for a method at all densities, beside those at single ones.

A single density decides who is ahead where curves cross. MIB (Mueller et al. 2025, arXiv 2504.13151) scores circuits by
the area under the curve of faithfulness over the share of edges that are kept. Here the axis is the logarithm of the
density, since skills lie in shares of 1e-5 to 1e-2, and the area is divided by the axis' length: 1 is the tuned model's
gain at every density, 0 the base's. Between two densities the curve is a line, the trapezoid rule.

Gains of .2, .8 and 1 at 1e-4, 1e-3 and 1e-2: the weights are 1/4, 1/2, 1/4, the area is .7.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from graft.evaluate.bootstrap import Interval, basic_interval

Floats = npt.NDArray[np.float64]


def weigh_densities(densities: Sequence[float]) -> Floats:
    """Return the weight of each density in the area, (n,) fp64 that sum to 1.

    Raises ValueError unless there are two at least, above 0 and ascending.
    """
    if len(densities) < 2 or densities[0] <= 0 or any(a >= b for a, b in itertools.pairwise(densities)):
        raise ValueError("an area takes two densities at least, above 0 and ascending")
    steps = np.diff(np.log(np.asarray(densities, dtype=np.float64)))
    weights: Floats = (np.append(steps, 0.0) + np.append(0.0, steps)) / (2 * steps.sum())
    return weights


def area_over_density(values: Mapping[float, float]) -> float | None:
    """Return the mean of a curve over the logarithm of the density; None of fewer than two densities.

    Args:
        values: density -> value, in any order.
    """
    if len(values) < 2:
        return None
    densities = sorted(values)
    return float(weigh_densities(densities) @ np.array([values[density] for density in densities]))


def area_interval(
    densities: Sequence[float], grafts: Sequence[Floats], base: Floats, tuned: Floats, *, draws: int = 1000
) -> Interval | None:
    """Return the 95 % interval of the area of recovered gains, by resampled examples, the same for all models.

    Args:
        densities: two at least, ascending.
        grafts: of each density, (n,) 1 where the graft answers an example right, else 0.
        base, tuned: likewise.
        draws: how often examples are drawn anew.

    Returns:
        The ends; None where tuning raised nothing, or in a draw does not: a gain is no number then.
    """
    columns = np.stack([weigh_densities(densities) @ np.stack(grafts), base, tuned])  # (3, n)
    n = columns.shape[1]
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)
    area, low, high = columns @ counts.T / n  # (3, draws)
    mean, of_base, of_tuned = columns.mean(1)
    if of_tuned <= of_base or bool((high <= low).any()):
        return None
    return basic_interval((area - low) / (high - low), (mean - of_base) / (of_tuned - of_base))
