"""Task similarity without any region: by the tasks' texts, and by the gradients of their losses at the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from graft.patch.live import LiveTarget
from graft.scores.gradients import GradientSink, MicroBatch, split_examples, stream_gradients
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.heads.similarity import SimilarityHead
from graft.tensors.scope import Scope

Matrix = npt.NDArray[np.float64]
_BATCH = 32


def compare_texts(head: SimilarityHead, examples: Sequence[Sequence[Example]]) -> Matrix:
    """Compute the (m, m) cosines of the tasks' mean sentence embeddings by one model (TextEmb, arXiv 2005.00770)."""
    with head.evaluating():
        return _cosines([_mean_embedding(head, rows) for rows in examples])


def compare_gradients(heads: Sequence[Head], examples: Sequence[Sequence[Example]], scope: str) -> Matrix:
    """Compute the (m, m) cosines of the mean gradients of the tasks' losses at the heads' common model, over a scope.

    Task2Vec and TaskEmb compare mean squared gradients (arXiv 1902.03545, 2005.00770); the signs are kept here, since
    two tasks may pull one weight in opposite directions. A weight that a head does not use, such as another head's own
    layer, has a gradient of 0.
    """
    sums = [_sum_gradients(head, rows, Scope(scope)) for head, rows in zip(heads, examples, strict=True)]
    return _cosines(_align([_rename(found, heads[0]) for found in sums]))


def _mean_embedding(head: SimilarityHead, rows: Sequence[Example]) -> torch.Tensor:
    embeddings = [head.embed([row.texts for row in rows[i : i + _BATCH]]) for i in range(0, len(rows), _BATCH)]
    return torch.cat(embeddings).mean(0)


class _TouchedSum(GradientSink):
    """Sum of all gradients of the weights that the loss touches.

    Attributes:
        sums: name -> (n,) fp32 on the CPU.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Add a gradient to its tensor's sum."""
        flat = gradient.flatten().float().cpu()
        self.sums[name] = self.sums[name] + flat if name in self.sums else flat.clone()


def _sum_gradients(head: Head, rows: Sequence[Example], scope: Scope) -> dict[str, torch.Tensor]:
    """Return the mean gradient of each weight in scope that the loss touches, up to a factor: name -> (n,) fp32."""
    weights = {name: weight for name, weight in head.model.named_parameters() if scope.holds(name)}
    batches = [MicroBatch(batch, head.weigh(batch)) for batch in split_examples(head.with_outputs(rows), _BATCH)]
    stream_gradients(head, weights, sink := _TouchedSum(), batches)
    return {name: sink.sums[name] for name in weights if name in sink.sums}


def _rename(sums: Mapping[str, torch.Tensor], head: Head) -> dict[str, torch.Tensor]:
    """Return the same by the names of a head's model: a classifier's model may have them behind a prefix."""
    found = LiveTarget(head.model).match(sums).found
    return {found.get(name, name): gradient for name, gradient in sums.items()}


def _align(sums: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Return each as one (n,) vector, all in one order of names, with 0 where it has no such weight."""
    sizes = {name: len(gradient) for found in sums for name, gradient in found.items()}
    return [torch.cat([found.get(name, torch.zeros(n)) for name, n in sizes.items()]) for found in sums]


def _cosines(vectors: Sequence[torch.Tensor]) -> Matrix:
    unit = [torch.nn.functional.normalize(vector.double(), dim=0) for vector in vectors]
    return np.array([[float(a @ b) for b in unit] for a in unit])
