"""The path between two checkpoints under a weighted sum of several tasks' losses, by one live model.

All heads share the model. A score that follows the path, such as attribution, sees one loss

    L(theta) = sum over terms of weight * mean loss of the term's examples,

and needs not know that it is a sum: gradients of the terms come one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import GradientSink
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.pair import CheckpointPair


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A part of a sum of losses.

    Attributes:
        head: its `loss` is the term's; heads of one sum share a model.
        examples: those that it is averaged over.
        weight: its factor in the sum.
        debias: set class offsets aside (`graft.scores.offsets`).
    """

    head: Head
    examples: Sequence[Example]
    weight: float
    debias: bool = False


class WeightedPath(GradientPath):
    """A path whose loss is a weighted sum; a term of weight 0 costs nothing.

    Args:
        terms: at least one.
        pair: the checkpoints at both ends.
        names: base names in scope.
        batch_size, seed: as for `GradientPath`.
    """

    def __init__(
        self, terms: Sequence[LossTerm], pair: CheckpointPair, names: Sequence[str], *, batch_size: int, seed: int
    ) -> None:
        first = terms[0]
        super().__init__(first.head, pair, names, first.examples, batch_size=batch_size, seed=seed, class_debias=False)
        self._terms = [
            (
                GradientPath(
                    term.head, pair, names, term.examples, batch_size=batch_size, seed=seed, class_debias=term.debias
                ),
                term.weight,
            )
            for term in terms
            if term.weight
        ]

    def stream_gradients(
        self,
        sink: GradientSink,
        weights: Mapping[str, torch.Tensor] | None = None,
        *,
        micro_batches: int | None = None,
        factor: float = 1.0,
    ) -> None:
        """Stream the gradients of all terms, as `GradientPath.stream_gradients`; `micro_batches` of each."""
        for path, weight in self._terms:  # they never move: the weights are this path's
            path.stream_gradients(sink, weights, micro_batches=micro_batches, factor=factor * weight)
