"""Scores that tests add to the registries: one file and one row each."""

from __future__ import annotations

from functools import partial

import torch

from graft.scores.inputs import ImportanceInput, ScoreInput, ScoreTable
from graft.scores.registry import ImportanceEntry, ScoreEntry

SCORE = ScoreEntry(
    name="toy", help="the sign of the movement", target="tests.scores.toy:score_sign", bytes_per_weight=12
)
IMPORTANCE = ImportanceEntry(
    name="toy", help="mean cubes of gradients", target="tests.scores.toy:score_cubes", needs="data"
)


def score_sign(inputs: ScoreInput) -> ScoreTable:
    """Score what grew above what shrank."""
    return {name: partial(lambda name: inputs.pair.read_delta(name)[0].sign(), name) for name in inputs.names}


def score_cubes(inputs: ImportanceInput) -> ScoreTable:
    """Score by the mean of |g|^3."""
    cubes = inputs.gradients.of(lambda gradient: gradient.abs().pow(3))
    return {name: partial(torch.Tensor.clone, cubes[name]) for name in inputs.weights}
