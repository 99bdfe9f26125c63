"""Angles between models, and the coefficients of their spherical mean, from dot products alone."""

from __future__ import annotations

import math

import torch

from graft.patch.spherical import STRAIGHT, arc_weights


def dots_of(rows: torch.Tensor) -> torch.Tensor:
    """Return (2, m, m) fp64 dot products: of the models, and of the first model and the differences from it.

    The latter keep small angles exact. The former are not put together from them: of a model far shorter than the
    first, as a bias from zero that was tuned more slowly, |theta_1|^2 + 2 theta_1 . delta + |delta|^2 leaves rounding.

    Args:
        rows: (m, n) fp32 theta_i; the differences theta_i - theta_1 are written over all but the first.
    """
    models = rows.double()
    gram = models @ models.T
    rows[1:] -= rows[0]
    return torch.stack([gram, (rows @ rows.T).double()])


def gram_of(dots: torch.Tensor) -> torch.Tensor:
    """Return theta_i . theta_j, (m, m), from `dots_of`."""
    return dots[0]


def angles_of(dots: torch.Tensor) -> torch.Tensor:
    """Return the degrees between each pair of models, (m, m), from `dots_of`.

    Where models are nearly parallel, sin^2(W / 2) = (|u - v|^2 - (|u| - |v|)^2) / (4 |u| |v|): the arc cosine of u . v
    would round angles below a hundredth of a degree to nothing.
    """
    along, products = _differences(dots[1])
    # Example: two models 1e-3 degrees apart. The cosine is 1 - 1.5e-10, of which fp32 has no digit and fp64 six; the
    # difference has length 1.7e-5 of the models', all digits of which are in `products`.
    norms, own = gram_of(dots).diag().sqrt(), products.diag()
    lengths = norms[:, None] * norms
    apart = own[:, None] + own - 2 * products
    longer = 2 * (along[:, None] - along) + own[:, None] - own  # |u|^2 - |v|^2
    unlike = longer / (norms[:, None] + norms).clamp(min=1e-300)
    squared = (apart - unlike**2) / (4 * lengths).clamp(min=1e-300)
    cosines = gram_of(dots) / lengths  # NaN, and so no wide angle, where a model is zero
    radians = torch.where(
        cosines < STRAIGHT, torch.acos(cosines.clamp(min=-1)), 2 * torch.asin(squared.clamp(0, 1).sqrt())
    )
    return torch.rad2deg(radians).fill_diagonal_(0.0)


def _differences(dots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return theta_1 . delta_i (m,) and delta_i . delta_j (m, m), where delta_1 = 0, from the dots of differences."""
    products = dots.clone()
    products[0] = products[:, 0] = 0
    along = dots[0].clone()
    along[0] = 0
    return along, products


def arc_coefficients(gram: torch.Tensor) -> list[float]:
    """Write the running spherical mean as a sum: slerp(u, theta_j; 1/j) is linear in both, and angles need only dots.

    Args:
        gram: (m, m) fp64, theta_i . theta_j.

    Returns:
        m factors, so that the mean is sum_i c_i theta_i.
    """
    m = len(gram)
    mean = torch.zeros(m, dtype=torch.float64)
    mean[0] = 1
    for j in range(1, m):
        norms = math.sqrt(max(float(mean @ gram @ mean) * float(gram[j, j]), 0.0))
        left, right = arc_weights(float(mean @ gram[:, j]) / norms if norms else math.nan, 1 / (j + 1))
        mean = left * mean
        mean[j] += right
    return mean.tolist()
