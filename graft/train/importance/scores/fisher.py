"""The diagonal of the empirical Fisher information, EWC's importance (Kirkpatrick et al. 2017, arXiv 1612.00796).

    F_i = mean over examples of g_i(example)^2

One backward per example. With micro-batches of b the mean gradient of b examples is squared instead, b times faster,
with expectation F / b + (1 - 1/b) * (mean gradient)^2 (`graft.localize.scores.fisher` has more).
"""

from __future__ import annotations

from functools import partial

import torch

from graft.localize.scores.table import ScoreTable
from graft.train.importance.scores.given import ImportanceInput


def score_fisher(given: ImportanceInput) -> ScoreTable:
    """Mean squared gradient per weight."""
    squares = given.gradients.of(torch.square)
    return {name: partial(torch.Tensor.clone, squares[name]) for name in given.weights}
