"""The top k of many tensors' scores: exact, ties included, one tensor in memory at a time.

Scores are ordered by their fp32 bit pattern made monotone. Two histogram passes (upper, then lower 16 bits of
the boundary bin) find the k-th largest key exactly; a third pass gathers. Entries equal to the k-th are taken
in ascending order of tensor name, then index, until exactly k are there.

Five scores .5, .25, .5, -1, .75 of one tensor, k = 2. Upper halves of the keys, in hexadecimal:

    .75 -> 3f40    .5 -> 3f00, 3f00    .25 -> 3e80    -1 -> c07f, which is below 0

Pass 1: from the top 1, 3, 4, 5: the 2nd largest is in bin 3f00, with 1 above it. Pass 2: of that bin both lower halves
are 0000, so the threshold is .5 itself, and 2 - 1 - 0 = 1 tie is left to take. Pass 3 gathers index 4, which is above
the threshold, and index 0, the first of the ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from graft.errors import BudgetError, CheckpointError
from graft.patch.mask import Indices

HALF = 1 << 16
KeySource = Mapping[str, Callable[[], torch.Tensor]]


def select_top(scores: KeySource, names: Sequence[str], k: int) -> dict[str, Indices]:
    """Select the k entries with the largest scores.

    Args:
        scores: tensor name -> function that gives its (n,) fp32 scores; -inf marks what may not be taken.
        names: the tensors to choose from.
        k: how many, at least 1.

    Returns:
        tensor name -> (k_i,) int64 ascending indices, for tensors with entries; the k_i sum to exactly k.

    Raises:
        BudgetError: fewer than k entries may be taken.
        CheckpointError: a score is NaN.
    """
    names = sorted(names)
    upper, above = _boundary(_histogram(scores, names, _upper_half), k)
    lower, above_in_bin = _boundary(_histogram(scores, names, lambda keys: _lower_half(keys, upper)), k - above)
    # what is above the upper bin, and what is above the lower bin within it, is in for sure
    threshold = ((upper - HALF // 2) << 16) + lower
    if threshold <= _keys(torch.tensor([-torch.inf])).item():
        raise BudgetError(f"fewer than {k:,} entries in scope may be chosen: those left have no score")
    ties_left = k - above - above_in_bin
    chosen: dict[str, Indices] = {}
    for name in names:
        keys = _keys(scores[name]())
        # each tensor takes what ties it has until none is left, which is the order of names and of indices
        ties = (keys == threshold).nonzero().squeeze(1)[:ties_left]
        ties_left -= ties.numel()
        indices = torch.cat([(keys > threshold).nonzero().squeeze(1), ties]).sort().values
        if indices.numel():
            chosen[name] = indices.numpy()
    return chosen


def _keys(scores: torch.Tensor) -> torch.Tensor:
    """Return (n,) int32 in the order of (n,) fp32: the bits, with the negatives' lower 31 bits turned round.

    Bits of negative numbers ascend as the numbers descend; XOR with 0x7FFFFFFF turns them round and keeps the sign.
    """
    if torch.isnan(scores).any():
        raise CheckpointError("a score is NaN: the model's loss or weights are not finite")
    bits = (scores + 0.0).view(torch.int32)  # -0.0 + 0.0 = 0.0: the two zeros tie
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _upper_half(keys: torch.Tensor) -> torch.Tensor:
    return (keys >> 16) + HALF // 2


def _lower_half(keys: torch.Tensor, upper: int) -> torch.Tensor:
    return keys[_upper_half(keys) == upper] & (HALF - 1)


def _histogram(scores: KeySource, names: Sequence[str], part: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    counts = torch.zeros(HALF, dtype=torch.int64)
    for name in names:
        counts += torch.bincount(part(_keys(scores[name]())), minlength=HALF)
    return counts.numpy()


def _boundary(counts: np.ndarray, k: int) -> tuple[int, int]:
    """Return the highest bin in which the k-th largest lies, and how many lie above that bin."""
    from_top = np.cumsum(counts[::-1])
    if from_top[-1] < k:
        raise BudgetError(f"a budget of {k:,} entries, but only {from_top[-1]:,} in scope")
    place = int(np.searchsorted(from_top, k))
    return HALF - 1 - place, int(from_top[place] - counts[HALF - 1 - place])
