"""Magnitude of the update |theta - base|: what tuning moved furthest, without data.

The core parameters of arXiv 2508.21741, which isolates the top percent of each task's update.
"""

from __future__ import annotations

from functools import partial

from graft.localize.scores.magnitude import size_of_movement
from graft.localize.scores.table import ScoreTable
from graft.train.importance.scores.given import ImportanceInput


def score_movement(given: ImportanceInput) -> ScoreTable:
    """|theta - base| per weight; tensors that the base lacks are left out."""
    if given.pair is None:
        raise ValueError("the magnitude of an update needs the base")
    of_base = {own: name for name, own in given.pair.names.items()}
    return {name: partial(size_of_movement, given.pair, of_base[name]) for name in given.weights if name in of_base}
