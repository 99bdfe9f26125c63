"""Drawn texts: token ids that any model of transformers that reads texts can be run on."""

from __future__ import annotations

import inspect
from typing import Any

import torch

_MOST_WORDS = 1000  # of a vocabulary, from which tokens are drawn


def draw_texts(model: Any, n_rows: int, n_tokens: int) -> dict[str, Any] | None:
    """Return the arguments of a model for some texts of drawn tokens, without padding; None where it reads no texts."""
    config = getattr(model, "config", None)
    if config is None or getattr(model, "main_input_name", None) != "input_ids":
        return None
    names = inspect.signature(model.forward).parameters
    table = model.get_input_embeddings()
    special = {value for key, value in config.to_dict().items() if key.endswith(("token_id", "token_index"))
               if isinstance(value, int)}  # fmt: skip
    words = [word for word in range(min(_MOST_WORDS, table.weight.shape[0])) if word not in special]
    if "input_ids" not in names or not words:
        return None
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        ids = torch.tensor(words)[torch.randint(len(words), (n_rows, n_tokens), generator=generator)]
        if isinstance(end := getattr(config, "eos_token_id", None), int) and 0 <= end < table.weight.shape[0]:
            ids[:, -1] = end  # where some models look for what they say of the text
        return ids.to(table.weight.device)

    texts: dict[str, Any] = {"input_ids": draw(), "attention_mask": torch.ones_like(draw()), "use_cache": False}
    if getattr(config, "is_encoder_decoder", False):
        texts["decoder_input_ids"] = draw()
    return {name: value for name, value in texts.items() if name in names}
