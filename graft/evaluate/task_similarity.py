"""Task similarity without any region: by the tasks' texts, and by the gradients of their losses at the base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

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
    two tasks may pull one weight in opposite directions.
    """
    return _cosines([_mean_gradient(head, rows, Scope(scope)) for head, rows in zip(heads, examples, strict=True)])


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


def _mean_gradient(head: Head, rows: Sequence[Example], scope: Scope) -> torch.Tensor:
    """Return the (n_weights in scope,) fp32 gradient on the CPU, up to a factor."""
    weights = {name: weight for name, weight in head.model.named_parameters() if scope.holds(name)}
    batches = [MicroBatch(batch, head.weigh(batch)) for batch in split_examples(rows, _BATCH)]
    stream_gradients(head, weights, sink := _TouchedSum(), batches)
    return torch.cat([sink.sums[name] for name in weights if name in sink.sums])


def _cosines(vectors: Sequence[torch.Tensor]) -> Matrix:
    unit = [torch.nn.functional.normalize(vector.double(), dim=0) for vector in vectors]
    return np.array([[float(a @ b) for b in unit] for a in unit])
