"""Attribution of the loss change to weights, to first order or integrated along a path.

Moving weights along a path theta(a) from the base changes the loss by integral g(theta(a)) . dtheta, so that

    score_i = -delta_i * (1/m) sum_j g_i(theta_j)

is what weight i contributes to the loss going down (integrated gradients, arXiv 1703.01365, over weights instead of
inputs). With the one point theta = base it is the first-order Taylor term -g * delta, to which the learned mask of
arXiv 2302.06600 is close. Two paths:

- "straight": theta_j = base + a_j * delta, a_j = (j - 1/2) / m, the midpoint rule. Scores sum to the change of the
  loss from base to tuned; but there all weights move, and soon the loss is one that a graft of few weights never sees.
- "graft": theta_1 = base, theta_{j+1} = the graft of the top k by the scores so far. The gradients are those where the
  graft is, so that entries which only repeat what others do, or push it past its mark, lose. This is dual averaging
  (Nesterov 2009, Mathematical Programming 120) of min L(base + m * delta) over masks m of k entries.

Either of candidates alone, in one model's memory (`graft.localize.candidate_search` finds them first), or of every
weight in scope, which takes 4 bytes per weight of host memory for the mean gradient.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from graft.localize.candidate_search import CandidateSearch
from graft.localize.candidates import Candidates, CandidateSum
from graft.localize.coordinates import Coordinates
from graft.localize.gradients import DenseSum
from graft.localize.scores.table import CandidateScores, DenseScores, ScoreInput, ScoreTable
from graft.patch.mask import Mask
from graft.specs.localize import CandidateSpec
from graft.tensors.pair import CheckpointPair


def score_attribution(given: ScoreInput) -> ScoreTable | CandidateScores:
    """The attribution along the graft's own path or the straight one, of candidates or of every weight."""
    path = given.model
    try:
        so_far = Dense(given) if given.candidates is None else OfCandidates(given, find_candidates(given))
        for point in range(given.points):
            if given.straight:
                path.move_to((point + 0.5) / given.points)
            elif point:
                path.move_to_graft(so_far.select())
            path.pour(so_far, so_far.weights)
    finally:
        path.return_to_base()
    return so_far.scores()


def score_taylor(given: ScoreInput) -> ScoreTable | CandidateScores:
    """The first-order term -g * delta at the base."""
    return score_attribution(dataclasses.replace(given, points=1, straight=False))


class Dense(DenseSum):
    """Attributions of every weight, from the points so far."""

    def __init__(self, given: ScoreInput) -> None:
        super().__init__(given.model.weights)
        self.given = given
        self.weights = given.model.weights

    def scores(self) -> ScoreTable:
        """-delta times the mean gradient."""
        pair, points = self.given.pair, self.given.points
        return {name: partial(contribution, pair, name, self.sums[name], points) for name in self.given.names}

    def select(self) -> Mask:
        """The graft that they call for."""
        return DenseScores(self.given.pair, self.scores()).select(self.given.groups)


class OfCandidates(CandidateSum):
    """Attributions of candidates, from the points so far."""

    def __init__(self, given: ScoreInput, mask: Mask) -> None:
        super().__init__(Candidates(given.pair, given.model.weights, mask, given.groups), given.model.head.ranks)
        self.given = given
        self.weights = self.candidates.weights

    def scores(self) -> CandidateScores:
        """-delta times the mean gradient."""
        values = self.candidates.movement * (self.total / self.given.points)
        return CandidateScores(self.given.pair, Coordinates(self.candidates.mask), values.neg_())

    def select(self) -> Mask:
        """The graft that they call for."""
        return self.scores().select(self.given.groups)


def find_candidates(given: ScoreInput) -> Mask:
    """The best of a few micro-batches at the base."""
    spec = given.candidates or CandidateSpec()
    search = CandidateSearch(given.pair, given.groups, spec.multiple, given.model.head.ranks)
    given.model.pour(search, micro_batches=spec.micro_batches)
    return search.mask


def contribution(pair: CheckpointPair, name: str, total: torch.Tensor, points: int) -> torch.Tensor:
    """(n,) fp32: -delta * total / points of one tensor."""
    delta, _ = pair.read_delta(name)
    return delta.mul_(total / points).neg_()
