"""The top k of many tensors' scores: exact, ties included, in one pass over them.

In memory are one tensor's scores and the best k. |delta| has a way of its own: `graft.localize.top_deltas`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from graft.errors import BudgetError, CheckpointError
from graft.patch.mask import Indices
from graft.scores.running_top import RunningTop

ScoreSource = Mapping[str, Callable[[], torch.Tensor]]


def select_top(scores: ScoreSource, names: Sequence[str], k: int, *, at_most: bool = False) -> dict[str, Indices]:
    """Select the k entries with the largest scores; ties go by tensor name, then index.

    Args:
        scores: tensor name -> function that gives its (n,) fp32 scores; -inf marks what may not be taken.
        names: the tensors to choose from.
        k: how many, at least 1.
        at_most: take fewer where fewer may be taken.

    Returns:
        tensor name -> (k_i,) int64 ascending indices, for tensors with entries; the k_i sum to exactly k.

    Raises:
        BudgetError: fewer than k entries may be taken.
        CheckpointError: a score is NaN.
    """
    names, top, starts = sorted(names), RunningTop(k), [0]
    for name in names:
        values = scores[name]()
        if torch.isnan(values).any():
            raise CheckpointError("a score is NaN: the model's loss or weights are not finite")
        top.offer(values, starts[-1])  # positions count through the tensors, so that ties go by name, then index
        starts.append(starts[-1] + len(values))
    positions = top.pop()[1].sort().values.numpy()
    if starts[-1] < k and not at_most:
        raise BudgetError(f"a budget of {k:,} entries, but only {starts[-1]:,} in scope")
    if len(positions) < k and not at_most:
        raise BudgetError(f"fewer than {k:,} entries in scope may be chosen: those left have no score")
    bounds = np.searchsorted(positions, starts)
    parts = zip(names, starts, bounds, bounds[1:], strict=False)
    return {name: positions[first:last] - start for name, start, first, last in parts if last > first}
