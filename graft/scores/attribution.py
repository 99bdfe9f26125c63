"""Attribution of the loss change to weights, to first order or integrated along a path.

Moving weights along a path theta(a) from the base changes the loss by integral g(theta(a)) . dtheta, so that

    score_i = -delta_i * (1/m) sum_j g_i(theta_j)

is weight i's contribution to the fall of the loss (integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365,
over weights instead of inputs). With the one point theta = base it is the first-order Taylor term -g * delta, to which
the learned mask of Panigrahi et al. (2023, arXiv 2302.06600) is close. Two paths:

- "straight": theta_j = base + a_j * delta, a_j = (j - 1/2) / m, the midpoint rule. Scores sum to the change of the
  loss from base to tuned; but there all weights move, and soon the loss is one that a graft of few weights never sees.
- "graft": theta_1 = base, theta_{j+1} = the graft of the top k by the scores so far. The gradients are taken at
  the graft itself, so that entries which only repeat what others do, or overshoot, lose. This is dual averaging
  (Nesterov 2009, Mathematical Programming 120) of min L(base + m * delta) over masks m of k entries.

Scored are candidates alone, in one model's memory (`graft.scores.candidate_search` finds them first), or every weight
in scope, which takes 4 bytes per weight of host memory for the mean gradient.

Five weights of delta (1, 1, -2, .5, 0), k = 2, two points of the graft's path; the first two say the same thing:

    point 1, at the base       g = (-.9, -.8,  .3, -.6, -7)    -delta * g     = (.9, .8, .6, .3, 0)    top 2: 1st, 2nd
    point 2, 1st and 2nd on    g = (-.1, -.1,  .3, -.6, -7)    -delta * mean  = (.5, .45, .6, .3, 0)   top 2: 3rd, 1st

With the 1st on, the 2nd has little left to give, which only the second point can see; the 5th never moved, and no
gradient counts there.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from graft.patch.mask import Mask
from graft.scores.candidate_search import CandidateSearch
from graft.scores.candidates import Candidates, CandidateSum
from graft.scores.coordinates import Coordinates
from graft.scores.gradients import DenseSum
from graft.scores.inputs import ScoreInput, ScoreTable
from graft.scores.table import CandidateScores, DenseScores
from graft.specs.localize import CandidateSpec
from graft.tensors.pair import CheckpointPair


def attribute(delta: torch.Tensor, total: torch.Tensor, points: int) -> torch.Tensor:
    """Return -delta * the mean gradient, elementwise; `total` is the sum of the gradients at so many points."""
    return (delta * (total / points)).neg_()


def score_attribution(inputs: ScoreInput) -> ScoreTable | CandidateScores:
    """Score candidates, or every weight, along the graft's own path or the straight one."""
    path = inputs.model
    try:
        dense = inputs.candidates is None
        sums = DenseAttribution(inputs) if dense else CandidateAttribution(inputs, find_candidates(inputs))
        for point in range(inputs.points):
            if inputs.straight:
                path.move_to((point + 0.5) / inputs.points)
            elif point:  # the first point is the base, where the model is
                # sums so far are divided by all m points, not by those so far: the order is the same
                path.move_to_graft(sums.select())
            path.stream_gradients(sums, sums.weights)
    finally:
        path.return_to_base()
    return sums.scores()


def score_taylor(inputs: ScoreInput) -> ScoreTable | CandidateScores:
    """Score by the first-order term -g * delta at the base."""
    return score_attribution(dataclasses.replace(inputs, points=1, straight=False))


class DenseAttribution(DenseSum):
    """Attributions of every weight, from the points so far."""

    def __init__(self, inputs: ScoreInput) -> None:
        super().__init__(inputs.model.weights)
        self.inputs = inputs
        self.weights = inputs.model.weights

    def scores(self) -> ScoreTable:
        """Return -delta times the mean gradient."""
        pair, points = self.inputs.pair, self.inputs.points
        return {name: partial(_attribute_tensor, pair, name, self.sums[name], points) for name in self.inputs.names}

    def select(self) -> Mask:
        """Return the mask of the best-scored k, the next graft on the path."""
        return DenseScores(self.inputs.pair, self.scores()).select(self.inputs.groups)


class CandidateAttribution(CandidateSum[Candidates]):
    """Attributions of candidates, from the points so far."""

    def __init__(self, inputs: ScoreInput, mask: Mask) -> None:
        super().__init__(Candidates(inputs.pair, inputs.model.weights, mask, inputs.groups), inputs.model.head.ranks)
        self.inputs = inputs
        self.weights = self.candidates.weights

    def scores(self) -> CandidateScores:
        """Return -delta times the mean gradient."""
        values = attribute(self.candidates.deltas, self.total, self.inputs.points)
        return CandidateScores(self.inputs.pair, Coordinates(self.candidates.mask), values)

    def select(self) -> Mask:
        """Return the mask of the best-scored k, the next graft on the path."""
        return self.scores().select(self.inputs.groups)


def find_candidates(inputs: ScoreInput) -> Mask:
    """Find candidates: the best entries of a few micro-batches at the base."""
    spec = inputs.candidates or CandidateSpec()
    search = CandidateSearch(inputs.pair, inputs.groups, spec.multiple, inputs.model.head.ranks)
    inputs.model.stream_gradients(search, micro_batches=spec.micro_batches)
    return search.mask


def _attribute_tensor(pair: CheckpointPair, name: str, total: torch.Tensor, points: int) -> torch.Tensor:
    """Return (n,) fp32: -delta * total / points of one tensor."""
    delta, _ = pair.read_delta(name)
    return attribute(delta, total, points)
