"""Angles between models, and the coefficients of their spherical mean, from dot products alone."""

from __future__ import annotations

import math

import torch

from graft.patch.spherical import arc_weights


def dots_of(rows: torch.Tensor) -> torch.Tensor:
    """Return (m, m) fp64 dot products of the first model and the differences from it, which keep small angles exact.

    Args:
        rows: (m, n) fp32: theta_1, then theta_i - theta_1 of each other model.
    """
    return (rows @ rows.T).double()


def gram_of(dots: torch.Tensor) -> torch.Tensor:
    """Return theta_i . theta_j, (m, m), from `dots_of`, since theta_i = theta_1 + delta_i, where delta_1 = 0."""
    along, products = _differences(dots)
    return dots[0, 0] + along + along[:, None] + products


def angles_of(dots: torch.Tensor) -> torch.Tensor:
    """Return the degrees between each pair of models, (m, m), from `dots_of`.

    sin^2(W / 2) = (|u - v|^2 - (|u| - |v|)^2) / (4 |u| |v|): the arc cosine of u . v would round angles below a
    hundredth of a degree to nothing.
    """
    along, products = _differences(dots)
    # Example: two models 1e-3 degrees apart. The cosine is 1 - 1.5e-10, of which fp32 has no digit and fp64 six; the
    # difference has length 1.7e-5 of the models', all digits of which are in `products`.
    norms, own = gram_of(dots).diag().clamp(min=0).sqrt(), products.diag()
    apart = own[:, None] + own - 2 * products
    longer = 2 * (along[:, None] - along) + own[:, None] - own  # |u|^2 - |v|^2
    unlike = longer / (norms[:, None] + norms).clamp(min=1e-300)
    squared = (apart - unlike**2) / (4 * norms[:, None] * norms).clamp(min=1e-300)
    return torch.rad2deg(2 * torch.asin(squared.clamp(0, 1).sqrt())).fill_diagonal_(0.0)


def _differences(dots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return theta_1 . delta_i (m,) and delta_i . delta_j (m, m)."""
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
        norms = math.sqrt(max(float(mean @ gram @ mean), 0.0) * float(gram[j, j]))
        left, right = arc_weights(float(mean @ gram[:, j]) / norms if norms else math.nan, 1 / (j + 1))
        mean = left * mean
        mean[j] += right
    return mean.tolist()
