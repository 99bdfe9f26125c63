"""How alike tasks are, seen without any region: by their texts, and by what they ask of the base's weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.heads.similarity import SimilarityHead
from graft.tensors.scope import Scope

Matrix = npt.NDArray[np.float64]
_BATCH = 32


def compare_texts(head: SimilarityHead, examples: Sequence[Sequence[Example]]) -> Matrix:
    """(m, m) cosines of the tasks' mean sentence embeddings by one model (TextEmb, arXiv 2005.00770)."""
    with head.evaluating():
        return _cosines([_mean_embedding(head, rows) for rows in examples])


def compare_gradients(heads: Sequence[Head], examples: Sequence[Sequence[Example]], scope: str) -> Matrix:
    """(m, m) cosines of the mean gradients of the tasks' losses at the heads' common model, over a scope.

    Task2Vec and TaskEmb compare mean squared gradients (arXiv 1902.03545, 2005.00770); the signs are kept here, since
    two tasks may want one weight moved in opposite ways.
    """
    return _cosines([_mean_gradient(head, rows, Scope(scope)) for head, rows in zip(heads, examples, strict=True)])


def _mean_embedding(head: SimilarityHead, rows: Sequence[Example]) -> torch.Tensor:
    parts = [head.embed([row.texts for row in rows[i : i + _BATCH]]) for i in range(0, len(rows), _BATCH)]
    return torch.cat(parts).mean(0)


def _mean_gradient(head: Head, rows: Sequence[Example], scope: Scope) -> torch.Tensor:
    """(n_weights in scope,) fp32 on the CPU, up to a factor."""
    head.model.eval()
    head.model.zero_grad(set_to_none=True)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        (head.loss(batch) * len(batch)).backward()  # type: ignore[no-untyped-call]
    named = [(name, weight.grad) for name, weight in head.model.named_parameters() if scope.holds(name)]
    flat = torch.cat([gradient.flatten().float().cpu() for _, gradient in named if gradient is not None])
    head.model.zero_grad(set_to_none=True)
    return flat


def _cosines(vectors: Sequence[torch.Tensor]) -> Matrix:
    unit = [torch.nn.functional.normalize(vector.double(), dim=0) for vector in vectors]
    return np.array([[float(a @ b) for b in unit] for a in unit])
