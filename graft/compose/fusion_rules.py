"""Fusion as arithmetic on a chunk of weights: base and each tuned model's (n,) in one dtype, fp32 in between.

One vectorised operation after another, on numbers that the processor's cache still holds. A selection is (c,) int64
ascending indices into the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from graft.patch.spherical import arc_weights
from graft.tensors.dtypes import assign, take

Tensors = Sequence[torch.Tensor]


def combine(tuned: Tensors, coefficients: Sequence[float]) -> torch.Tensor:
    """sum_i c_i theta_i: the mean, and slerp once its angles are known; (n,) fp32."""
    result = tuned[0].to(torch.float32, copy=True).mul_(coefficients[0])
    for values, coefficient in zip(tuned[1:], coefficients[1:], strict=True):
        result.add_(values.float(), alpha=coefficient)
    return result


def add_task_vectors(base: torch.Tensor, tuned: Tensors, scale: float) -> torch.Tensor:
    """theta_0 + scale * sum_i (theta_i - theta_0); (n,) fp32."""
    base = base.float()
    moved = torch.zeros_like(base)
    for values in tuned:
        moved += values.float().sub(base)
    return moved.mul_(scale).add_(base)


def merge_elected(base: torch.Tensor, tuned: Tensors, kept: Tensors, scale: float) -> torch.Tensor:
    """TIES: of the kept differences, the mean of those with the sign of their sum; nothing where the sum is 0.

    Args:
        base, tuned: the values.
        kept: the selection of each model.
        scale: factor of the mean.

    Returns:
        (n,) fp32.
    """
    moved = torch.zeros(len(tuned), len(base))
    for row, values, places in zip(moved, tuned, kept, strict=True):
        row.index_copy_(0, places, take(values, places).float().sub_(take(base, places).float()))
    sign = moved.sum(dim=0).sign_()
    agreeing = moved.mul_(sign).clamp_(min=0)  # their sizes, and 0 for all others
    elected = agreeing.sum(dim=0)
    elected /= agreeing.sign_().sum(dim=0).clamp_(min=1)
    return elected.mul_(sign).mul_(scale).add_(base)


def within(selections: Tensors, start: int, n: int) -> list[torch.Tensor]:
    """The parts of selections among n entries from `start` on, as indices into these."""
    bounds = [np.searchsorted(places, (start, start + n)) for places in selections]
    return [places[first:last] - start for places, (first, last) in zip(selections, bounds, strict=True)]


class Shared(NamedTuple):
    """Where m selections of one chunk meet.

    Attributes:
        places: (c,) int64 ascending indices of what two of them or more hold.
        held: (m, c) bool, which of them.
        sizes: of each.
    """

    places: torch.Tensor
    held: torch.Tensor
    sizes: list[int]

    @classmethod
    def of(cls, selections: Tensors) -> Shared:
        """Of selections in one chunk."""
        every = np.sort(np.concatenate([item.numpy() for item in selections]))
        places = np.unique(every[1:][every[1:] == every[:-1]])
        held = np.zeros((len(selections), len(places)), np.bool_)
        for row, item in zip(held, selections, strict=True):
            if len(item):
                row[:] = item.numpy().take(np.searchsorted(item, places), mode="clip") == places
        return cls(torch.from_numpy(places), torch.from_numpy(held), [len(item) for item in selections])

    @property
    def met(self) -> torch.Tensor:
        """(m, m) int64: in how many entries each two selections meet; sizes in the diagonal."""
        counts = self.held.float()
        met = (counts @ counts.T).round().long()  # a chunk has fewer than 2^24 weights: exact in fp32
        return met.fill_diagonal_(0) + torch.tensor(self.sizes).diag()


def transplant(rest: torch.Tensor, tuned: Tensors, cores: Tensors, shared: Shared) -> torch.Tensor:
    """Core entries over the rest: the value of the one model whose core it is, bit for bit, or the mean of several.

    Args:
        rest: (n,) in the models' dtype; written into.
        tuned: the values.
        cores: the selection of each model.
        shared: where they meet.
    """
    for values, core in zip(tuned, cores, strict=True):
        assign(rest, core, take(values, core))  # not through a sum, which would lose -0.0
    if len(shared.places):
        values = torch.stack([take(values, shared.places).float() for values in tuned])
        mean = torch.where(shared.held, values, 0).sum(dim=0) / shared.held.sum(dim=0)
        assign(rest, shared.places, mean.to(rest.dtype))
    return rest


def dots_of(rows: torch.Tensor) -> torch.Tensor:
    """(m, m) fp64 dot products of the first model and the differences from it, which keeps small angles' digits.

    Args:
        rows: (m, n) fp32: theta_1, then theta_i - theta_1 of each other model.
    """
    return (rows @ rows.T).double()


def gram_of(dots: torch.Tensor) -> torch.Tensor:
    """theta_i . theta_j (m, m) from `dots_of`, since theta_i = theta_1 + delta_i, where delta_1 = 0."""
    along, moved = _differences(dots)
    return dots[0, 0] + along + along[:, None] + moved


def angles_of(dots: torch.Tensor) -> torch.Tensor:
    """Degrees between each two models, (m, m), from `dots_of`.

    sin^2(W / 2) = (|u - v|^2 - (|u| - |v|)^2) / (4 |u| |v|): the arc cosine of u . v would round angles below a
    hundredth of a degree to nothing.
    """
    along, moved = _differences(dots)
    norms, own = gram_of(dots).diag().clamp(min=0).sqrt(), moved.diag()
    apart = own[:, None] + own - 2 * moved
    longer = 2 * (along[:, None] - along) + own[:, None] - own  # |u|^2 - |v|^2
    unlike = longer / (norms[:, None] + norms).clamp(min=1e-300)
    squared = (apart - unlike**2) / (4 * norms[:, None] * norms).clamp(min=1e-300)
    return torch.rad2deg(2 * torch.asin(squared.clamp(0, 1).sqrt())).fill_diagonal_(0.0)


def _differences(dots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """theta_1 . delta_i (m,) and delta_i . delta_j (m, m)."""
    moved = dots.clone()
    moved[0] = moved[:, 0] = 0
    along = dots[0].clone()
    along[0] = 0
    return along, moved


def arc_coefficients(gram: torch.Tensor) -> list[float]:
    """The running spherical mean as one sum: slerp(u, theta_j; 1/j) is linear in both, and angles need dots alone.

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
