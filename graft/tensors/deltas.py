"""Large deltas in a chunk of two checkpoints: where |tuned - base| reaches a floor, found by few and cheap operations.

A chunk is subtracted in the checkpoints' own dtype. Rounding is monotone, so that an entry whose fp32 |delta| is at
or above a floor has a rounded one that is not below the rounded floor: three operations on 16-bit numbers leave few
candidates in nearly every chunk, and only of these the fp32 |delta| is taken.

With bf16, which near 1 tells 1/128 apart, and a floor of 0.01: the rounded floor is 0.01001. A weight that went from
1.0 to 1.0078 has the delta 0.0078 and is dropped; one that went to 1.0156 stays, and its delta is taken again in fp32.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from graft.tensors.dtypes import NARROW, as_bits, take
from graft.tensors.pair import CheckpointPair, chunks_of

LONG = 1 << 20  # weights at a time in long chunks, where the few are many in number
_EXACT = (*NARROW, torch.float32)  # dtypes whose subtraction is the rounded fp32 difference


def large_deltas(
    pair: CheckpointPair,
    name: str,
    base: torch.Tensor,
    tuned: torch.Tensor,
    floor: float,
    exact_to: float = math.inf,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the entries of a chunk that changed and whose |delta| is at or above a floor, and few others.

    Args:
        pair: where the chunk comes from.
        name: its tensor.
        base, tuned: (n,) as `CheckpointPair.chunks` gives them.
        floor: 0 or more.
        exact_to: sizes above this bound need not be exact, which is quicker; they stay above it.

    Returns:
        indices: (k,) int64, ascending, into the chunk. Rounding may let in some that are just below the floor.
        sizes: (k,) fp32, their |tuned - base|.

    Raises:
        CheckpointError: one of these values is NaN or infinite.
    """
    chunks = chunks_of([base, tuned], base.dtype)
    parts = [(start, *_find_candidates(left, right, floor)) for start, (left, right) in chunks]
    candidates = torch.from_numpy(np.concatenate([start + indices for start, indices, _ in parts]))
    if not len(candidates):
        return candidates, torch.empty(0)
    rounded = torch.from_numpy(np.concatenate([bits for _, _, bits in parts])).view(_delta_dtype(base))
    sizes = rounded.float()
    if not math.isfinite(sizes.max()):  # or two finite values lie further apart than their dtype reaches
        pair.refuse_not_finite(name, take(base, candidates), take(tuned, candidates))
    if rounded.dtype == torch.float32:
        return candidates, sizes
    inexact = (sizes <= float(torch.tensor(exact_to).to(rounded.dtype))).nonzero().squeeze(1)
    inexact_indices = candidates[inexact]
    sizes[inexact] = take(tuned, inexact_indices).float().sub_(take(base, inexact_indices).float()).abs_()
    return candidates, sizes


def _find_candidates(
    base: torch.Tensor, tuned: torch.Tensor, floor: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.signedinteger]]:
    """Return where the rounded |tuned - base| is NaN or not below the rounded floor, and its bits there."""
    delta = tuned - base if base.dtype in _EXACT else tuned.float() - base.float()
    bits = as_bits(delta)
    bits.bitwise_and_(torch.iinfo(bits.dtype).max)  # drops the sign; of what is left NaN and infinity are the largest
    least_bits = max(int(as_bits(torch.tensor(floor, dtype=torch.float32).to(delta.dtype))), 1)
    candidates = np.flatnonzero(bits.numpy() >= least_bits)  # numpy compares 16-bit integers ten times as fast as torch
    return candidates, bits.numpy()[candidates]


def _delta_dtype(base: torch.Tensor) -> torch.dtype:
    return base.dtype if base.dtype in _EXACT else torch.float32
