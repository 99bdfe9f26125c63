"""Scores of how much a weight matters to what a model knows: one small file each, in a literal table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graft.localize.scores.table import ScoreTable
from graft.train.importance.scores.fisher import score_fisher
from graft.train.importance.scores.given import ImportanceInput
from graft.train.importance.scores.movement import score_movement
from graft.train.importance.scores.path import score_path
from graft.train.importance.scores.saliency import score_saliency


@dataclass(frozen=True)
class ImportanceScore:
    """A way to score weights, and what it needs beside the model: a task's "data", the "base", or a "record"."""

    function: Callable[[ImportanceInput], ScoreTable]
    needs: str


IMPORTANCE_SCORES = {
    "saliency": ImportanceScore(score_saliency, needs="data"),
    "fisher": ImportanceScore(score_fisher, needs="data"),
    "movement": ImportanceScore(score_movement, needs="base"),
    "path": ImportanceScore(score_path, needs="record"),
}
