"""The large movements |tuned - base| in a chunk of two checkpoints, found by few and cheap operations.

A chunk is subtracted in the checkpoints' own dtype. Rounding is monotone, so that an entry whose fp32 |delta| is at
or above a floor has a rounded one that is not below the rounded floor: three operations on 16-bit numbers tell for
nearly every chunk that few of its entries can be, and of these few the fp32 |delta| is taken.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from graft.tensors.dtypes import as_bits, take
from graft.tensors.pair import CheckpointPair, chunks_of

LONG = 1 << 20  # weights at a time in long chunks, where the few are many in number
_EXACT = (torch.bfloat16, torch.float16, torch.float32)  # dtypes whose subtraction is the rounded fp32 difference


def large_deltas(
    pair: CheckpointPair,
    name: str,
    base: torch.Tensor,
    tuned: torch.Tensor,
    floor: float,
    exact_to: float = math.inf,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the entries of a chunk that moved and whose movement is at or above a floor, and few others.

    Args:
        pair: where the chunk comes from.
        name: its tensor.
        base, tuned: (n,) as `CheckpointPair.chunks` gives them.
        floor: 0 or more.
        exact_to: sizes above it need not be exact, which is quicker; they stay above it.

    Returns:
        indices: (k,) int64, ascending, into the chunk. Rounding may let in some that are just below the floor.
        sizes: (k,) fp32, their |tuned - base|.

    Raises:
        CheckpointError: one of these values is NaN or infinite.
    """
    parts = [(at, *_find(mine, other, floor)) for at, (mine, other) in chunks_of([base, tuned], base.dtype)]
    few = torch.from_numpy(np.concatenate([at + places for at, places, _ in parts]))
    if not len(few):
        return few, torch.empty(0)
    rounded = torch.from_numpy(np.concatenate([bits for _, _, bits in parts])).view(_moved_dtype(base))
    sizes = rounded.float()
    if not math.isfinite(sizes.max()):  # or two finite values lie further apart than their dtype reaches
        pair.refuse_not_finite(name, take(base, few), take(tuned, few))
    if rounded.dtype == torch.float32:
        return few, sizes
    near = (sizes <= float(torch.tensor(exact_to).to(rounded.dtype))).nonzero().squeeze(1)
    places = few[near]
    sizes[near] = take(tuned, places).float().sub_(take(base, places).float()).abs_()
    return few, sizes


def _find(
    base: torch.Tensor, tuned: torch.Tensor, floor: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.signedinteger]]:
    """Return where the rounded |tuned - base| is not below the rounded floor, or is no number; and its bits there."""
    moved = tuned - base if base.dtype in _EXACT else tuned.float() - base.float()
    bits = as_bits(moved)
    bits.bitwise_and_(torch.iinfo(bits.dtype).max)  # the sign: NaN and infinity have the largest bits
    least = max(int(as_bits(torch.tensor(floor, dtype=torch.float32).to(moved.dtype))), 1)
    few = np.flatnonzero(bits.numpy() >= least)  # numpy compares 16-bit integers ten times as fast as torch
    return few, bits.numpy()[few]


def _moved_dtype(base: torch.Tensor) -> torch.dtype:
    return base.dtype if base.dtype in _EXACT else torch.float32
