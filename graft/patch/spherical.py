"""Spherical linear interpolation of differences from a base (Shoemake 1985, "Animating rotation with quaternion
curves", SIGGRAPH).

    slerp(a, b; t) = sin((1 - t) W) / sin W * a + sin(t W) / sin W * b,   W = the angle between a and b

as it is used on weights: the angle is that of the normalized vectors, the vectors themselves are not normalized, and
where they are nearly parallel or nearly opposite (|cos W| > .9995) the straight line stands in for the arc.
"""

from __future__ import annotations

import math

import torch

STRAIGHT = 0.9995  # |cos W| from which the arc is taken for a line, since sin W in the denominator loses its digits


def arc_weights(cosine: float, t: float) -> tuple[float, float]:
    """Return the two factors of slerp.

    Args:
        cosine: of the angle between the vectors, -1 to 1; NaN, where one of them is zero, counts as parallel.
        t: 0 gives the first vector, 1 the second.
    """
    if not abs(cosine) <= STRAIGHT:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def mean_on_sphere(vectors: torch.Tensor) -> torch.Tensor:
    """Return the running spherical mean of the rows: slerp(mean of the first j - 1, row j; 1/j), in their order.

    Two rows give slerp at t = 1/2. With three or more the order of the rows matters.

    Args:
        vectors: (m, n) fp64, m >= 1.

    Returns:
        (n,) fp64.
    """
    mean = vectors[0]
    for j, vector in enumerate(vectors[1:], start=2):
        norms = float(mean.norm() * vector.norm())
        left, right = arc_weights(float(mean @ vector) / norms if norms else math.nan, 1 / j)
        mean = left * mean + right * vector
    return mean
