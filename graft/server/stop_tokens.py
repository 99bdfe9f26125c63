"""Stop tokens: those that end an answer."""

from __future__ import annotations

import contextlib
from typing import Any

from graft.errors import ConfigError
from graft.tasks.chat import end_token


def ends_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer: those of the model's settings, the tokenizer's, and the chat's."""
    settings = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = list(settings) if isinstance(settings, list | tuple) else [settings]
    ends.append(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        with contextlib.suppress(ConfigError):
            ends.append(end_token(tokenizer))
    return tuple(sorted({int(token) for token in ends if token is not None}))
