"""Scores of weights: one small file each with its source, registered in a literal table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graft.localize.scores.attribution import score_attribution, score_taylor
from graft.localize.scores.fisher import score_fisher
from graft.localize.scores.magnitude import score_magnitude
from graft.localize.scores.random import score_random
from graft.localize.scores.relative import score_relative
from graft.localize.scores.table import CandidateScores, ScoreInput, ScoreTable
from graft.localize.scores.talos import score_talos


@dataclass(frozen=True)
class Score:
    """A way to score weights, and whether it needs data."""

    function: Callable[[ScoreInput], ScoreTable | CandidateScores]
    needs_data: bool


SCORES = {
    "attribution": Score(score_attribution, needs_data=True),
    "taylor": Score(score_taylor, needs_data=True),
    "fisher": Score(score_fisher, needs_data=True),
    "talos": Score(score_talos, needs_data=True),
    "magnitude": Score(score_magnitude, needs_data=False),
    "relative": Score(score_relative, needs_data=False),
    "random": Score(score_random, needs_data=False),
}
