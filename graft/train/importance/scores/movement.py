"""Magnitude of the update |theta - base|: what tuning moved furthest, without data.

The core parameters of arXiv 2508.21741, which isolates the top percent of each task's update.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.localize.scores.magnitude import size_of_movement
from graft.localize.scores.table import ScoreTable
from graft.tensors.pair import CheckpointPair
from graft.train.importance.scores.given import ImportanceInput


def score_movement(given: ImportanceInput) -> ScoreTable:
    """|theta - base| per weight; tensors that the base lacks are left out, and new rows score -inf."""
    if given.pair is None:
        raise ValueError("the magnitude of an update needs the base")
    of_base = {own: name for name, own in given.pair.names.items()}
    return {
        name: partial(_movement, given.pair, of_base[name], weight.numel())
        for name, weight in given.weights.items()
        if name in of_base
    }


def _movement(pair: CheckpointPair, name: str, n: int) -> torch.Tensor:
    """(n,) fp32."""
    sizes = size_of_movement(pair, name)
    return torch.cat([sizes, torch.full((n - len(sizes),), -torch.inf)])
