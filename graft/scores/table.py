"""Tables of fp32 scores: of every weight in scope, computed when asked for, or of candidates alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch

from graft.patch.mask import Mask
from graft.scores.coordinates import Coordinates, Groups, deltas_at
from graft.scores.inputs import ScoreTable
from graft.scores.magnitude import magnitude_of, size_of_delta
from graft.scores.selection import select_top
from graft.tensors.pair import CheckpointPair


class Scores(ABC):
    """Scores of weights: of all in scope, or of candidates.

    Attributes:
        advice: how more entries get a score, where they can.
    """

    advice: ClassVar[str] = ""

    @abstractmethod
    def select(self, groups: Groups, *, at_most: bool = False) -> Mask:
        """Return the best-scored changed entries, as many of each group of tensors as its share says.

        With `at_most` they are fewer where fewer have a score.
        """

    @abstractmethod
    def at(self, mask: Mask) -> torch.Tensor:
        """Return (k,) fp32 scores at a mask, by tensor name, then index."""

    @abstractmethod
    def magnitudes(self) -> Self:
        """Return |delta| of the same weights."""

    @abstractmethod
    def plus(self, other: Self, weight: float, factor: float) -> Self:
        """Return (these + weight * the others) * factor."""


@dataclass(frozen=True, eq=False)
class DenseScores(Scores):
    """Scores of every weight in scope.

    Attributes:
        pair: base and tuned checkpoints.
        table: tensor name -> its scores.
    """

    pair: CheckpointPair
    table: ScoreTable

    def select(self, groups: Groups, *, at_most: bool = False) -> Mask:
        """Select in one pass, with one tensor's scores in memory at a time."""
        changed_scores = {name: partial(self._score_changed, name) for name in self.table}
        indices = {}
        for group, share in groups:
            indices.update(select_top(changed_scores, group, share, at_most=at_most))
        return Mask.of({name: self.pair.base.spec(name) for name in indices}, indices)

    def at(self, mask: Mask) -> torch.Tensor:
        """Read one tensor's scores after another."""
        return torch.cat([self.table[name]()[torch.tensor(mask[name])] for name in mask])

    def magnitudes(self) -> DenseScores:
        """Return |delta| of every weight in scope."""
        return DenseScores(self.pair, {name: partial(magnitude_of, self.pair, name) for name in self.table})

    def plus(self, other: DenseScores, weight: float, factor: float) -> DenseScores:
        """Add tensor by tensor, when asked for."""

        def add(name: str) -> torch.Tensor:
            """Return the weighted sum of both tables' scores of a tensor."""
            return (self.table[name]() + weight * other.table[name]()).mul_(factor)

        return DenseScores(self.pair, {name: partial(add, name) for name in self.table})

    def _score_changed(self, name: str) -> torch.Tensor:
        _, changed = self.pair.read_delta(name)
        return self.table[name]().masked_fill_(~changed, -torch.inf)


@dataclass(frozen=True, eq=False)
class CandidateScores(Scores):
    """Scores of candidates, all of them changed entries; no other entry has a score.

    Attributes:
        pair: base and tuned checkpoints.
        coordinates: the n candidates.
        values: (n,) fp32.
    """

    pair: CheckpointPair
    coordinates: Coordinates
    values: torch.Tensor
    advice: ClassVar[str] = "score every weight (--exact-scores)"

    def select(self, groups: Groups, *, at_most: bool = True) -> Mask:
        """Select the best candidates; all of them in a group that has fewer than its share."""
        return self.coordinates.mask_of(self.coordinates.keep_top(self.values, groups))

    def at(self, mask: Mask) -> torch.Tensor:
        """Look up the scores at a mask of candidates."""
        return self.values[self.coordinates.positions_of(mask)]

    def magnitudes(self) -> CandidateScores:
        """Return |delta| of the candidates."""
        return CandidateScores(self.pair, self.coordinates, size_of_delta(deltas_at(self.pair, self.coordinates)))

    def plus(self, other: CandidateScores, weight: float, factor: float) -> CandidateScores:
        """Add the scores of the same candidates."""
        return CandidateScores(self.pair, self.coordinates, (self.values + weight * other.values).mul_(factor))
