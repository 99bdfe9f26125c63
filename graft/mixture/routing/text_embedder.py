"""TextEmbedder: texts as unit vectors of the resident base."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.mixture.mixed_model import MixedModel
from graft.specs.data import DataSpec
from graft.specs.head import HeadSpec
from graft.specs.task import TaskSpec
from graft.tasks.heads.similarity import SimilarityHead

Embed = Callable[[Sequence[str]], torch.Tensor]  # texts -> (n, width) fp32 unit vectors on the CPU
_MAX_TOKENS = 256  # of a text: what it is about is seen from its start


class TextEmbedder:
    """A model's base as a function from texts to vectors: states averaged over tokens, as the similarity head does.

    Rows carry no skill while it runs.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = _MAX_TOKENS, batch_size: int = 32) -> None:
        """Make an embedder over a model that is there anyway.

        Args:
            model: of transformers, or a `MixedModel` over one; of a model with a head the part below it is run.
            tokenizer: its tokenizer.
            max_tokens: of a longer text the start is read; the model's own limit where that is less.
            batch_size: texts a forward pass.
        """
        self._mixed = model if isinstance(model, MixedModel) else None
        whole = model.model if isinstance(model, MixedModel) else model
        task = TaskSpec(
            "routing", DataSpec("none", "none", "none"), head=HeadSpec(), labels=("a", "b"), max_length=max_tokens
        )
        self._head = SimilarityHead(getattr(whole, "base_model", whole), tokenizer, task)
        self._batch_size = batch_size

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (n, width) fp32 unit vectors on the CPU, in the order given.

        Raises:
            DataError: a text has no token.
            CheckpointError: the model gives no states of tokens, or not finite ones.
        """
        if not texts:
            return torch.empty(0, 0)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # similar lengths share a batch: little padding
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        with self._head.evaluating(), self._mixed.skills([None]) if self._mixed else contextlib.nullcontext():
            vectors = torch.cat([self._head.embed([(texts[i],) for i in batch]).cpu() for batch in batches])
        if not bool(vectors.isfinite().all()):
            raise CheckpointError("the base's states are not finite; its weights hold NaN, or overflow in its dtype")
        return vectors[torch.tensor(order).argsort()]
