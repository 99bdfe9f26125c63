"""What a score is given, and what it gives: fp32 scores of all weights, made when asked for, or of candidates alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch

from graft.localize.coordinates import Coordinates, Groups, movement_at
from graft.localize.path import GradientPath
from graft.localize.selection import select_top
from graft.patch.mask import Mask
from graft.specs.localize import CandidateSpec
from graft.tensors.pair import CheckpointPair

# tensor name -> a function that gives its (n,) fp32 scores, higher = more likely to hold the skill; calling it
# again gives the same, so that a selection may take several passes and never hold more than one tensor
ScoreTable = Mapping[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class ScoreInput:
    """What scores are computed from.

    Attributes:
        pair: base and tuned checkpoints.
        names: the tensors in scope, ascending.
        seed: for scores that draw.
        points: for scores that walk from base to tuned.
        path: the model on its way from base to tuned with the task's data; None for scores without data.
        straight: whether that walk is the straight one, instead of the graft's own.
        groups: how the budget is shared out, for scores that look at their own graft or at candidates.
        candidates: how to find the candidates that attribution looks at alone; None scores every weight, which takes
            4 bytes per weight in scope of host memory.
        micro_batch: examples whose gradients are averaged before they are squared, for scores that square them.
    """

    pair: CheckpointPair
    names: tuple[str, ...]
    seed: int = 0
    points: int = 8
    path: GradientPath | None = None
    straight: bool = True
    groups: Groups = ()
    candidates: CandidateSpec | None = None
    micro_batch: int = 1

    @property
    def model(self) -> GradientPath:
        """The path, which must be there."""
        if self.path is None:
            raise ValueError("this score needs a task's data")
        return self.path


class Scores(ABC):
    """Scores of weights, of all in scope or of candidates."""

    @abstractmethod
    def select(self, groups: Groups) -> Mask:
        """The best-scored changed entries, as many of each group of tensors as its share says."""

    @abstractmethod
    def at(self, mask: Mask) -> torch.Tensor:
        """(k,) fp32 scores at a mask, by tensor name, then index."""

    @abstractmethod
    def movement(self) -> Self:
        """|delta| of the same weights."""

    @abstractmethod
    def plus(self, other: Self, weight: float, factor: float) -> Self:
        """(these + weight * the others) * factor."""


@dataclass(frozen=True, eq=False)
class DenseScores(Scores):
    """Scores of every weight in scope.

    Attributes:
        pair: base and tuned checkpoints.
        table: tensor name -> its scores.
    """

    pair: CheckpointPair
    table: ScoreTable

    def select(self, groups: Groups) -> Mask:
        """By histograms over one tensor's scores at a time."""
        only_changed = {name: partial(self._score_changed, name) for name in self.table}
        indices = {}
        for group, share in groups:
            indices.update(select_top(only_changed, group, share))
        return Mask.of({name: self.pair.base.spec(name) for name in indices}, indices)

    def at(self, mask: Mask) -> torch.Tensor:
        """From one tensor's scores after another."""
        return torch.cat([self.table[name]()[torch.tensor(mask[name])] for name in mask])

    def movement(self) -> DenseScores:
        """|delta| of every weight in scope."""
        return DenseScores(self.pair, {name: partial(self._movement, name) for name in self.table})

    def plus(self, other: DenseScores, weight: float, factor: float) -> DenseScores:
        """Made when asked for."""

        def add(name: str) -> torch.Tensor:
            return (self.table[name]() + weight * other.table[name]()).mul_(factor)

        return DenseScores(self.pair, {name: partial(add, name) for name in self.table})

    def _score_changed(self, name: str) -> torch.Tensor:
        _, changed = self.pair.read_delta(name)
        return self.table[name]().masked_fill_(~changed, -torch.inf)

    def _movement(self, name: str) -> torch.Tensor:
        delta, _ = self.pair.read_delta(name)
        return delta.abs_()


@dataclass(frozen=True, eq=False)
class CandidateScores(Scores):
    """Scores of candidates, all of them changed entries; what is none has no score.

    Attributes:
        pair: base and tuned checkpoints.
        coordinates: the n candidates.
        values: (n,) fp32.
    """

    pair: CheckpointPair
    coordinates: Coordinates
    values: torch.Tensor

    def select(self, groups: Groups) -> Mask:
        """Of a group with fewer candidates than its share, all."""
        return self.coordinates.mask_of(self.coordinates.keep_top(self.values, groups))

    def at(self, mask: Mask) -> torch.Tensor:
        """Of a mask of candidates."""
        return self.values[self.coordinates.places_of(mask)]

    def movement(self) -> CandidateScores:
        """|delta| of the candidates."""
        return CandidateScores(self.pair, self.coordinates, movement_at(self.pair, self.coordinates).abs_())

    def plus(self, other: CandidateScores, weight: float, factor: float) -> CandidateScores:
        """Of the same candidates."""
        return CandidateScores(self.pair, self.coordinates, (self.values + weight * other.values).mul_(factor))
