"""Causality: whether what a language model gives for a token depends on the tokens after it, tried by running it.

Its name does not tell. A BERT's causal class sees in one direction only where the config says `is_decoder`, which is
off by default; an XLNet, an XLM and a CPM-Ant see in both in a plain forward pass, whatever they are trained for. Each
is at hand under transformers' Auto class for causal language models, and its loss is that of one who has read the
answer. So two texts are read that differ in the last token alone.
"""

from __future__ import annotations

from typing import Any

import torch

from graft.errors import CheckpointError
from graft.tasks.batches import embedded_tokens, run_model
from graft.tasks.loading import quiet_transformers
from graft.tensors.dtypes import NARROW

_LENGTH = 4  # tokens of each text
# of the difference at the last token, at each of those before it: in a causal model it is 0, but where experts take
# their tokens together, and products of more or fewer tokens round otherwise
_SHARE, _SHARE_NARROW = 1e-4, 1e-2


def refuse_two_way(model: Any) -> None:
    """Refuse a model loaded as a causal language model that sees tokens after the one at which it predicts.

    Raises:
        CheckpointError: saying so. A model that cannot be run on these texts is left to whoever runs it on others.
    """
    batch = _differing_at_the_end(model)
    if batch is None:
        return
    try:
        with torch.no_grad(), quiet_transformers():
            logits = run_model(model, batch).logits.float()  # (2, tokens, vocabulary)
    except CheckpointError:
        return
    share = _SHARE_NARROW if next(model.parameters()).dtype in NARROW else _SHARE
    by_token = (logits[0] - logits[1]).abs().mean(-1)
    # every token before the last: one alone may have gone to another expert by a rounding
    if bool((by_token[:-1] > share * by_token[-1]).all()):
        raise CheckpointError(
            f"{type(model).__name__} sees the tokens after the one at which it predicts, as its config has it: "
            "it is no causal language model, and its loss and answers would be wrong"
        )


def _differing_at_the_end(model: Any) -> dict[str, torch.Tensor] | None:
    """Return two texts of tokens from all over the vocabulary that differ in the last alone; None of too few."""
    n_words = embedded_tokens(model) or 0
    words = torch.linspace(0, n_words - 1, _LENGTH + 3, dtype=torch.float64).long()[1:-1]  # special ones are outermost
    if n_words < _LENGTH + 3:
        return None
    ids = torch.stack([words[:-1], torch.cat([words[:-2], words[-1:]])]).to(next(model.parameters()).device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
