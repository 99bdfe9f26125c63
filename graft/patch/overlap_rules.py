"""Rules for a coordinate that several patches want, in `compose` and `apply`.

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
    """One tensor's entries of several patches, joined.

    Attributes:
        indices: (k,) int64 sorted unique.
        values: (k,) what each gets.
        join: who holds which coordinate.
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
    apart = (bits != bits[start].repeat_interleave(torch.from_numpy(join.length))).numpy()
    differing = np.logical_or.reduceat(apart, join.start)
    count = int(differing.sum())
    how = OVERLAP_RULES.find(rule)
    if count and how.kind == "refuse":
        how.load()(where, join.shared)
    chosen = bits[start]
    if count and how.kind == "keep":
        chosen = bits[torch.from_numpy(join.start + how.load()(join.length))]
    indices, cancelled = torch.from_numpy(join.union), 0
    if count and how.kind == "blend":
        _check_float(dtype, where)
        at = torch.from_numpy(np.flatnonzero(differing))
        before = _base_values(rule, base_at, indices[at], where)
        blended, zeroed = _blend(rule, bits.view(dtype).double(), join, differing, before)
        rounded = blended.to(dtype)
        if not is_finite(rounded):
            raise OverlapError(f"tensor {where!r}: a blended value is too large for {dtype}; choose first or last")
        chosen = chosen.index_copy(0, at, as_bits(rounded))
        cancelled = int(zeroed)
    return JoinedEntries(indices, chosen.view(dtype), join, count, cancelled)


def _check_float(dtype: torch.dtype, where: str) -> None:
    if not dtype.is_floating_point:
        raise OverlapError(f"tensor {where!r}: {dtype} values cannot be averaged; choose --on-overlap first or last")


def _base_values(rule: str, base_at: BaseAt | None, indices: torch.Tensor, where: str) -> torch.Tensor:
    """(s,) fp64 values of the base; zeros where the rule does not look at them."""
    if not OVERLAP_RULES[rule].needs_base:
        return torch.zeros(len(indices), dtype=torch.float64)
    if base_at is None:
        raise OverlapError(f"tensor {where!r}: the rule {rule!r} needs the base's values at shared coordinates")
    return base_at(indices).double()


def _blend(
    rule: str, values: torch.Tensor, join: IndexJoin, differing: npt.NDArray[np.bool_], before: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """(s,) fp64 blended values at the differing coordinates, and how many of them went back to the base."""
    how = OVERLAP_RULES[rule]
    start, length = join.start[differing], join.length[differing]
    result = before.clone()
    # Runs of one length make a rectangle, (s_m, m), whose rows are blended all at once. With runs of 2, 3 and 2 entries
    # at places 0-1, 2-4 and 5-6, m = 2 takes [[0, 1], [5, 6]] and m = 3 takes [[2, 3, 4]].
    for m in np.unique(length):
        at = np.flatnonzero(length == m)
        places = start[at][:, None] + np.arange(m)  # (s_m, m) entries of these coordinates
        held, base = values[torch.from_numpy(places)], before[torch.from_numpy(at)]
        result[torch.from_numpy(at)] = how.load()(held, base, join.owner[places])
    return result, int((result == before).sum()) if how.may_cancel else 0


def refuse(where: str, shared: int) -> NoReturn:
    """Refuse a tensor in which patches differ.

    Raises:
        OverlapError: always.
    """
    *others, last = (name for name, entry in OVERLAP_RULES.items() if entry.kind == "blend")
    kept = " or ".join(name for name, entry in OVERLAP_RULES.items() if entry.kind == "keep")
    raise OverlapError(
        f"tensor {where!r}: two patches want different values at shared coordinates ({shared:,} shared); "
        f"choose --on-overlap {kept}, or {', '.join(others)} or {last}, or exclude one from the other"
    )


def find_first(length: Ints) -> Ints:
    """Return, for coordinates that `length` (c,) patches want, which of them is the first."""
    return np.zeros_like(length)


def find_last(length: Ints) -> Ints:
    """Return, for coordinates that `length` (c,) patches want, which of them is the last."""
    return length - 1


def average(held: torch.Tensor, base: torch.Tensor, owners: Ints) -> torch.Tensor:
    """Return the mean of the (s, m) values, (s,)."""
    return held.sort(dim=1).values.mean(dim=1)  # sorted: the same sum in whatever order the patches came


def elect_sign(held: torch.Tensor, base: torch.Tensor, owners: Ints) -> torch.Tensor:
    """TIES at s coordinates: (s, m) values and (s,) base -> (s,)."""
    moved = held - base[:, None]
    # sums of sorted numbers: the same bits in whatever order the patches came
    elected = moved.sort(dim=1).values.sum(dim=1, keepdim=True).sign()
    agrees = moved * elected > 0
    total = torch.where(agrees, held, 0).sort(dim=1).values.sum(dim=1)
    return torch.where(agrees.any(dim=1), total / agrees.sum(dim=1).clamp(min=1), base)


def average_on_spheres(held: torch.Tensor, base: torch.Tensor, owners: Ints) -> torch.Tensor:
    """Add to the base spherical means, one for each set of patches that share coordinates: (s, m) values -> (s,)."""
    moved = held - base[:, None]
    result = torch.empty(len(moved), dtype=moved.dtype)
    # a sphere is that of the coordinates which the very same patches share: rows [a b], [a c], [a b] make two groups
    groups, member = np.unique(owners, axis=0, return_inverse=True)
    for group in range(len(groups)):
        at = torch.from_numpy(np.flatnonzero(member.reshape(-1) == group))
        result[at] = mean_on_sphere(moved[at].T.contiguous())
    return base + result
