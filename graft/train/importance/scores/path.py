"""The path integral recorded while the model was tuned (`graft.train.importance.recorder`; arXiv 2501.13669).

The record holds the weights that mattered most; the others score -inf, which no selection takes.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.localize.scores.table import ScoreTable
from graft.train.importance.consolidation import Consolidation
from graft.train.importance.scores.given import ImportanceInput


def score_path(given: ImportanceInput) -> ScoreTable:
    """Omega per recorded weight."""
    if given.record is None:
        raise ValueError("the path integral needs a record of the tuning")
    record, kept = given.record, [name for name in given.record.mask if name in given.weights]
    return {name: partial(recorded, record, name, given.weights[name].numel()) for name in kept}


def recorded(record: Consolidation, name: str, n: int) -> torch.Tensor:
    """(n,) fp32 Omega of one tensor, -inf where none is kept."""
    return torch.full((n,), -torch.inf).index_copy(0, torch.tensor(record.mask[name]), record.strength_of(name))
