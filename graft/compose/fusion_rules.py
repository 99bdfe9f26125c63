"""Fusion as arithmetic on a stretch of weights: base (n,), tuned (m, n) and selections (m, n), fp32 and bool."""

from __future__ import annotations

import math

import torch

from graft.patch.spherical import arc_weights


def combine(tuned: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """sum_i c_i theta_i: the mean, and slerp once its angles are known; (m,) fp64 -> (n,)."""
    return coefficients.to(tuned.dtype) @ tuned


def add_task_vectors(base: torch.Tensor, tuned: torch.Tensor, scale: float) -> torch.Tensor:
    """theta_0 + scale * sum_i (theta_i - theta_0)."""
    return base + scale * (tuned - base).sum(dim=0)


def merge_elected(base: torch.Tensor, tuned: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    """TIES: of the kept differences, the mean of those with the sign of their sum; nothing where the sum is 0."""
    moved = torch.where(kept, tuned - base, 0)
    agrees = moved * moved.sum(dim=0).sign() > 0
    elected = torch.where(agrees, moved, 0).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
    return base + scale * elected


def transplant(rest: torch.Tensor, tuned: torch.Tensor, core: torch.Tensor) -> torch.Tensor:
    """Core entries over the rest: the value of the one model whose core it is, bit for bit, or the mean of several."""
    at = core.any(dim=0).nonzero().squeeze(1)  # few: the rest is left alone
    held, values = core[:, at], tuned[:, at]
    owners = held.sum(dim=0)
    result = torch.where(held, values, 0).sum(dim=0) / owners
    for mine, value in zip(held, values, strict=True):
        result = torch.where(mine & (owners == 1), value, result)  # not through a sum, which would lose -0.0
    return rest.index_copy(0, at, result)


def dots_of(rows: torch.Tensor) -> torch.Tensor:
    """(m + 1, m + 1) fp64 dot products of the base and the differences from it, which keeps small angles' digits.

    Args:
        rows: (m + 1, n) fp32: the base, then theta_i - theta_0 of each model.
    """
    return (rows @ rows.T).double()


def gram_of(dots: torch.Tensor) -> torch.Tensor:
    """theta_i . theta_j (m, m) from `dots_of`, since theta_i = theta_0 + delta_i."""
    return dots[0, 0] + dots[0, 1:] + dots[1:, :1] + dots[1:, 1:]


def angles_of(dots: torch.Tensor) -> torch.Tensor:
    """Degrees between each two models, (m, m), from `dots_of`.

    sin^2(W / 2) = (|u - v|^2 - (|u| - |v|)^2) / (4 |u| |v|): the arc cosine of u . v would round angles below a
    hundredth of a degree to nothing.
    """
    norms = gram_of(dots).diag().clamp(min=0).sqrt()
    own = dots.diag()[1:]
    apart = own[:, None] + own - 2 * dots[1:, 1:]
    longer = 2 * (dots[1:, :1] - dots[0, 1:]) + own[:, None] - own  # |u|^2 - |v|^2
    unlike = longer / (norms[:, None] + norms).clamp(min=1e-300)
    squared = (apart - unlike**2) / (4 * norms[:, None] * norms).clamp(min=1e-300)
    return torch.rad2deg(2 * torch.asin(squared.clamp(0, 1).sqrt())).fill_diagonal_(0.0)


def arc_coefficients(gram: torch.Tensor) -> torch.Tensor:
    """The running spherical mean as one sum: slerp(u, theta_j; 1/j) is linear in both, and angles need dots alone.

    Args:
        gram: (m, m) fp64, theta_i . theta_j.

    Returns:
        (m,) fp64, so that the mean is sum_i c_i theta_i.
    """
    m = len(gram)
    mean = torch.zeros(m, dtype=torch.float64)
    mean[0] = 1
    for j in range(1, m):
        norms = math.sqrt(max(float(mean @ gram @ mean), 0.0) * float(gram[j, j]))
        left, right = arc_weights(float(mean @ gram[:, j]) / norms if norms else math.nan, 1 / (j + 1))
        mean = left * mean
        mean[j] += right
    return mean
