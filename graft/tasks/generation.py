"""Generation: what a causal language model writes after given tokens, the most probable token at every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from graft.tasks.batches import first_position, reads_left_padding
from graft.tasks.head import Head

Tokens = Sequence[int]


def write_on(
    head: Head, contexts: Sequence[Tokens], ends: set[int], most: int, *, batch_size: int, label: str
) -> list[list[int]]:
    """Return the tokens that a model writes after each context, up to and with the first of `ends`.

    Contexts of similar length share a batch, padded on the left; a row that has ended waits for the others, and what
    stands behind its end is dropped. A model that would read the padding writes after one context at a time. The
    folder's own settings for generation, such as sampling, are set aside.

    Args:
        head: over the model, in evaluation mode.
        contexts: token ids, at least one each.
        ends: tokens that end what is written.
        most: tokens to write at most.
        batch_size: contexts at once.
        label: of the progress bar.
    """
    order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    written: list[list[int]] = [[] for _ in contexts]
    first, size = first_position(head.model), batch_size if reads_left_padding(head.model) else 1
    starts = range(0, len(order), size)
    with _greedy(head.model, head.tokenizer.pad_token_id, ends, most):
        for start in tqdm(starts, desc=label, disable=None, leave=False):
            chosen = order[start : start + size]
            batch = head.pad([contexts[i] for i in chosen], side="left")
            if first:  # `generate` would count from 0
                batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0) + first
            width = batch["input_ids"].shape[1]
            for i, row in zip(chosen, head.model.generate(**batch)[:, width:].tolist(), strict=True):
                end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
                written[i] = row[:end]
    return written


@contextlib.contextmanager
def _greedy(model: Any, pad: int, ends: set[int], most: int) -> Iterator[None]:
    """Let a model's own settings be greedy ones within a block: what a call leaves open is taken from them."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=most, eos_token_id=sorted(ends) or None, pad_token_id=pad, use_cache=True
    )
    try:
        yield
    finally:
        model.generation_config = own
