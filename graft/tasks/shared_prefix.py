"""A beginning that all texts of a batch have in common, such as examples in a template or a system's turn, read once.

Its keys and values are computed for one text and lent to all: the rest of each text attends to them as to its own. The
logits are those of whole texts up to rounding, and gradients flow through the beginning too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graft.parallel.sharded import is_sharded
from graft.tasks.batches import pad_tokens, run_model
from graft.tasks.packing import can_pack
from graft.tasks.placement import recomputes
from graft.tasks.prompt import common_prefix

_WORTH = 0.25  # the least share of a batch's tokens, padding counted, for which it is worth a forward pass of its own


def shared_length(model: Any, texts: Sequence[Sequence[int]], most: int | None = None) -> int:
    """Return how many tokens all texts begin with, short of a whole text; 0 where reading them once saves too little.

    Models that can be packed keep nothing of what they have read but keys and values, each under its position. Layers
    that are recomputed take none, and sharded weights are gathered for one pass.

    Args:
        model: a causal language model.
        texts: as token ids.
        most: no more than so many.
    """
    n, longest, shortest = len(texts), max(map(len, texts)), min(map(len, texts))
    limit = shortest - 1 if most is None else min(shortest - 1, most)
    shared = min([limit, *(common_prefix(texts[0], other) for other in texts[1:])])
    if (n - 1) * shared < _WORTH * n * longest or not can_pack(model) or recomputes(model) or is_sharded(model):
        return 0
    return shared


def read_prefix(model: Any, prefix: Sequence[int], n: int, device: torch.device) -> Any:
    """Return a cache of n rows that have read the same tokens; gradients flow."""
    from transformers import DynamicCache

    batch = {name: part.to(device) for name, part in pad_tokens([prefix], 0).items()}
    read, lent = DynamicCache(), DynamicCache()
    run_model(model, batch, past_key_values=read, use_cache=True, logits_to_keep=1)
    for number, layer in enumerate(read.layers):
        lent.update(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1), number)
    return lent


def after_prefix(batch: dict[str, torch.Tensor], shared: int) -> dict[str, torch.Tensor]:
    """Return the inputs of texts, each without its first `shared` tokens, that go on from a cache of these."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = torch.arange(shared, shared + ids.shape[1], device=ids.device).expand_as(ids)
    return batch | {"position_ids": positions, "attention_mask": torch.cat([mask.new_ones(len(ids), shared), mask], 1)}
