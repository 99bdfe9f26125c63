"""Rules for coordinates that several patches want, in `compose` and `apply`.

Where the patches agree bit for bit they do not conflict, whatever the rule. Where they do not, with v_1 ... v_m the
tuned values there, b the base's, and d_i = v_i - b:

    error   refused
    first   v_1
    last    v_m
    mean    (v_1 + ... + v_m) / m
    sign    the mean of those v_i whose d_i has the sign of d_1 + ... + d_m, and b where that sum is 0: the sign
            election and disjoint mean of TIES (Yadav et al. 2023, arXiv 2306.01708); the masks stand for its trimming
    slerp   b + the spherical mean of the d_i, taken as vectors over all coordinates of the tensor that the very same
            patches share and differ on (`graft.patch.spherical`)

At one coordinate, with b = 1.0 and three patches that want 1.5, 2.0 and 0.9, so that d = 0.5, 1.0 and -0.1:

    first 1.5    last 0.9    mean 4.4 / 3 = 1.467    sign (1.5 + 2.0) / 2 = 1.75, since 0.5 + 1.0 - 0.1 > 0

Arithmetic is in fp64, rounded to nearest-even in the base's dtype. Mean and sign do not depend on the order of the
patches, bit for bit; slerp does from three patches on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from graft.errors import OverlapError
from graft.patch.index_join import IndexJoin, Ints, join_indices
from graft.patch.mask import Indices
from graft.patch.registry import OVERLAP_RULES
from graft.patch.spherical import mean_on_sphere
from graft.tensors.dtypes import as_bits, is_finite

OverlapRule = str  # a name of `OVERLAP_RULES`
BaseAt = Callable[[torch.Tensor], torch.Tensor]  # (s,) int64 flat indices -> (s,) values of the base, any float dtype


@dataclass(frozen=True, eq=False)
class JoinedEntries:
    """Joined entries of several patches in one tensor.

    Attributes:
        indices: (k,) int64 sorted unique.
        values: (k,) the value that each gets.
        join: the index sets of the patches, joined.
        differing: number of coordinates where patches wanted different bits.
        cancelled: of these, the ones that "sign" gave back to the base.
    """

    indices: torch.Tensor
    values: torch.Tensor
    join: IndexJoin
    differing: int
    cancelled: int


def join_entries(
    parts: Sequence[tuple[Indices, torch.Tensor]], rule: OverlapRule, where: str, base_at: BaseAt | None = None
) -> JoinedEntries:
    """Join the entries that patches have in one tensor, and settle each conflict by a rule.

    Args:
        parts: for each patch its (k_i,) int64 sorted unique flat indices and (k_i,) values, all of one dtype.
        rule: for the coordinates where they want different bits.
        where: the tensor's name, for an error.
        base_at: gives the base's values; asked only under "sign" and "slerp", for differing coordinates alone.

    Raises:
        OverlapError: they differ and the rule is "error", or it cannot be followed: no values of the base, whole
            numbers to average, a result outside the dtype's range.
    """
    join = join_indices([indices for indices, _ in parts])
    dtype = parts[0][1].dtype
    bits = torch.cat([as_bits(values) for _, values in parts])[torch.from_numpy(join.order)]
    start = torch.from_numpy(join.start)
    # every entry against the first of its run: a run conflicts where any of its entries has other bits
    unlike_first = (bits != bits[start].repeat_interleave(torch.from_numpy(join.length))).numpy()
    differing = np.logical_or.reduceat(unlike_first, join.start)
    count = int(differing.sum())
    entry = OVERLAP_RULES.find(rule)
    if count and entry.kind == "refuse":
        entry.load()(where, join.shared)
    chosen = bits[start]
    if count and entry.kind == "keep":
        chosen = bits[torch.from_numpy(join.start + entry.load()(join.length))]
    indices, cancelled = torch.from_numpy(join.union), 0
    if count and entry.kind == "blend":
        _check_float(dtype, where)
        conflicts = torch.from_numpy(np.flatnonzero(differing))
        base = _base_values(rule, base_at, indices[conflicts], where)
        blended, n_cancelled = _blend(rule, bits.view(dtype).double(), join, differing, base)
        rounded = blended.to(dtype)
        if not is_finite(rounded):
            raise OverlapError(f"tensor {where!r}: a blended value is too large for {dtype}; choose first or last")
        chosen = chosen.index_copy(0, conflicts, as_bits(rounded))
        cancelled = int(n_cancelled)
    return JoinedEntries(indices, chosen.view(dtype), join, count, cancelled)


def _check_float(dtype: torch.dtype, where: str) -> None:
    if not dtype.is_floating_point:
        raise OverlapError(f"tensor {where!r}: {dtype} values cannot be averaged; choose --on-overlap first or last")


def _base_values(rule: str, base_at: BaseAt | None, indices: torch.Tensor, where: str) -> torch.Tensor:
    """Return (s,) fp64 values of the base; zeros where the rule does not need them."""
    if not OVERLAP_RULES[rule].needs_base:
        return torch.zeros(len(indices), dtype=torch.float64)
    if base_at is None:
        raise OverlapError(f"tensor {where!r}: the rule {rule!r} needs the base's values at shared coordinates")
    return base_at(indices).double()


def _blend(
    rule: str, values: torch.Tensor, join: IndexJoin, differing: npt.NDArray[np.bool_], base: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Return (s,) fp64 blended values at the differing coordinates, and how many of them went back to the base."""
    entry = OVERLAP_RULES[rule]
    start, length = join.start[differing], join.length[differing]
    result = base.clone()
    # Runs of one length make a rectangle, (s_m, m), whose rows are blended all at once. With runs of 2, 3 and 2 entries
    # at places 0-1, 2-4 and 5-6, m = 2 takes [[0, 1], [5, 6]] and m = 3 takes [[2, 3, 4]].
    for m in np.unique(length):
        coordinates = np.flatnonzero(length == m)
        positions = start[coordinates][:, None] + np.arange(m)  # (s_m, m) entries of these coordinates
        wanted, run_base = values[torch.from_numpy(positions)], base[torch.from_numpy(coordinates)]
        result[torch.from_numpy(coordinates)] = entry.load()(wanted, run_base, join.owner[positions])
    return result, int((result == base).sum()) if entry.may_cancel else 0


def refuse(where: str, shared: int) -> NoReturn:
    """Refuse a tensor in which patches differ.

    Raises:
        OverlapError: always.
    """
    *blending, last = (name for name, entry in OVERLAP_RULES.items() if entry.kind == "blend")
    keeping = " or ".join(name for name, entry in OVERLAP_RULES.items() if entry.kind == "keep")
    raise OverlapError(
        f"tensor {where!r}: two patches want different values at shared coordinates ({shared:,} shared); "
        f"choose --on-overlap {keeping}, or {', '.join(blending)} or {last}, or exclude one from the other"
    )


def find_first(length: Ints) -> Ints:
    """Return (c,) positions of the first of the `length` (c,) patches that want each coordinate: 0."""
    return np.zeros_like(length)


def find_last(length: Ints) -> Ints:
    """Return (c,) positions of the last of the `length` (c,) patches that want each coordinate."""
    return length - 1


def average(values: torch.Tensor, base: torch.Tensor, owners: Ints) -> torch.Tensor:
    """Return the mean of the (s, m) values, (s,)."""
    return values.sort(dim=1).values.mean(dim=1)  # sorted: the same sum in whatever order the patches came


def elect_sign(values: torch.Tensor, base: torch.Tensor, owners: Ints) -> torch.Tensor:
    """Return the mean of the values on the elected side of the base, as in TIES: (s, m) values, (s,) base -> (s,).

    Values [1.5, 2.0, 0.9] over base 1.0: deltas [0.5, 1.0, -0.1] sum to 1.4, so that + is elected, and the mean of 1.5
    and 2.0 is 1.75. Deltas that sum to 0 elect none, and the base stays.
    """
    deltas = values - base[:, None]
    # sums of sorted numbers: the same bits in whatever order the patches came
    elected = deltas.sort(dim=1).values.sum(dim=1, keepdim=True).sign()
    agrees = deltas * elected > 0
    total = torch.where(agrees, values, 0).sort(dim=1).values.sum(dim=1)
    return torch.where(agrees.any(dim=1), total / agrees.sum(dim=1).clamp(min=1), base)


def average_on_spheres(values: torch.Tensor, base: torch.Tensor, owners: Ints) -> torch.Tensor:
    """Return the base plus the spherical mean of the deltas, a sphere for each set of patches that share coordinates.

    Args:
        values: (s, m) of the patches.
        base: (s,).
        owners: (s, m) the patches.

    Returns:
        (s,).
    """
    deltas = values - base[:, None]
    result = torch.empty(len(deltas), dtype=deltas.dtype)
    # a sphere is that of the coordinates which the very same patches share: rows [a b], [a c], [a b] make two groups
    groups, member = np.unique(owners, axis=0, return_inverse=True)
    for group in range(len(groups)):
        rows = torch.from_numpy(np.flatnonzero(member.reshape(-1) == group))
        result[rows] = mean_on_sphere(deltas[rows].T.contiguous())
    return base + result
