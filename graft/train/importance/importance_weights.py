"""Importance weights: the weights of a model that matter most, with their importance.

EWC (arXiv 1612.00796) holds two dense fp32 vectors, Fisher information and anchor: 8 bytes a weight. The anchor is the
checkpoint that training starts from, which is on disk anyway: only a hash of it is stored here, by which another
checkpoint is refused. Omega takes a byte each (float8 e5m2: two bits of mantissa over 32 octaves, an error of at most
an eighth), and below a share of 1 a bit per weight marks those that have one. That is 1 byte a weight, 12.5 % of EWC's,
at a share of 1, and 2.8 % at a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graft.errors import BudgetError, MismatchError
from graft.patch.mask import Mask
from graft.scores.inputs import ScoreTable
from graft.scores.selection import select_top
from graft.tensors.dtypes import spec_of, take
from graft.tensors.hashing import hash_values

_HIGHEST = 2.0**15  # the largest power of two in float8_e5m2


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """Importance of the weights of a checkpoint.

    Attributes:
        mask: the weights that have importance.
        omega: tensor name -> (k,) float8_e5m2, bfloat16 or float32, above 0, in the order of the mask's indices.
        scale: factor of all omega.
        hashes: tensor name -> hash of the checkpoint's values at the mask, the anchor.
        method: the score's name.
    """

    mask: Mask
    omega: Mapping[str, torch.Tensor]
    scale: float
    hashes: Mapping[str, str]
    method: str

    def omega_of(self, name: str) -> torch.Tensor:
        """Return (k,) fp32 importance of a tensor's weights."""
        return self.omega[name].float() * self.scale

    def dense(self, name: str) -> torch.Tensor:
        """Return (n,) fp32 importance of all of a tensor's weights, -inf for those without."""
        n = self.mask.specs[name].numel
        return torch.full((n,), -torch.inf).index_copy(0, torch.tensor(self.mask[name]), self.omega_of(name))


def check_anchor(importance: ImportanceWeights, name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that is not the one its importance was measured on.

    Raises:
        MismatchError: it has another shape, or other values at the mask.
    """
    spec = importance.mask.specs[name]
    if spec.shape != tuple(tensor.shape):
        raise MismatchError(f"tensor {name!r} is {spec} in the importance file and {spec_of(tensor)} in the model")
    if hash_values(take(tensor, torch.tensor(importance.mask[name]))) != importance.hashes[name]:
        raise MismatchError(f"tensor {name!r}: the importance file belongs to other weights than the base's")


def select_core(scores: ScoreTable, weights: Mapping[str, torch.Tensor], share: float) -> Mask:
    """Select the best-scored floor(share * n + 1/2) of n weights: exactly so many, ties by tensor name, then index.

    Args:
        scores: tensor name -> function that gives (n,) fp32 scores.
        weights: the tensors.
        share: above 0, at most 1.

    Raises:
        BudgetError: the share is out of range or keeps no weight, or fewer may be taken (scores of -inf may not).
        CheckpointError: a score is NaN.
    """
    n = sum(weights[name].numel() for name in scores)
    k = math.floor(share * n + 0.5) if 0 < share <= 1 else 0
    if not k:
        raise BudgetError(f"a share of {share:g} of {n:,} weights keeps none, or more than all")
    return Mask.of({name: spec_of(weights[name]) for name in scores}, select_top(scores, tuple(scores), k))


def keep_importance(
    scores: ScoreTable,
    weights: Mapping[str, torch.Tensor],
    share: float,
    method: str,
    dtype: torch.dtype = torch.float8_e5m2,
) -> ImportanceWeights:
    """Keep the best-scored share of the weights whose score is above 0.

    Args:
        scores: tensor name -> function that gives (n,) fp32 scores.
        weights: the tensors, at their anchors.
        share: above 0, at most 1.
        method: the score's name.
        dtype: of the omega.

    Raises:
        BudgetError: no score is above 0, or the share keeps no weight.
        CheckpointError: a score is NaN.
    """
    n = sum(weights[name].numel() for name in scores)
    positive = sum(int((scores[name]() > 0).sum()) for name in scores)
    if not positive:
        raise BudgetError(f"by {method} no weight matters: there is nothing to hold on to")
    mask = select_core(scores, weights, min(share, positive / n))
    indices = {name: torch.tensor(mask[name]) for name in mask}
    scale = max(float(scores[name]().max()) for name in mask) / _HIGHEST if dtype == torch.float8_e5m2 else 1.0
    lowest = torch.finfo(dtype).smallest_normal / 4 if dtype == torch.float8_e5m2 else 0.0  # its smallest subnormal
    omega = {name: (scores[name]().index_select(0, indices[name]) / scale).clamp_min(lowest).to(dtype) for name in mask}
    hashes = {name: hash_values(take(weights[name], indices[name])) for name in mask}
    return ImportanceWeights(mask, omega, scale, hashes, method)
