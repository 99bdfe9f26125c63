"""Prompts of a chat: the filled template is the user's turn, and what its slot stands for begins the assistant's."""

from __future__ import annotations

from typing import Any

from graft.specs.head import HeadSpec
from graft.tasks.batches import Texts, run_tokenizer
from graft.tasks.chat import Turn, opening_text, require_template
from graft.tasks.prompt import PromptEncoder


class ChatPromptEncoder(PromptEncoder):
    """A template, which ends with its slot, in the tokenizer's chat template.

    Args:
        tokenizer, template, slot, limit: as of any prompt.
        system: text of the system's turn; that of the chat template, if it has one, where absent.

    Raises:
        ConfigError: the tokenizer's chat template cannot be used.
    """

    def __init__(self, tokenizer: Any, template: str, slot: str, limit: int, system: str | None = None) -> None:
        require_template(tokenizer)
        super().__init__(tokenizer, template, slot, limit)
        self._before = () if system is None else (Turn("system", system),)

    def fill(self, texts: Texts, content: str) -> str:
        """Return the chat up to what the assistant begins to say."""
        return self.opening(texts) + content

    def opening(self, texts: Texts) -> str:
        """Return the chat up to the assistant's turn, which is opened."""
        return opening_text(self.tokenizer, (*self._before, Turn("user", self.before(texts).strip())))

    def encode_open(self, text: str) -> list[int]:
        """Return token ids of a chat, whose template writes all special tokens itself."""
        return list(run_tokenizer(self.tokenizer, text, verbose=False, add_special_tokens=False)["input_ids"])


def open_prompts(tokenizer: Any, head: HeadSpec, slot: str, limit: int) -> PromptEncoder:
    """Return the prompts that a head block asks for, of a chat or plain.

    Raises:
        ConfigError: as `ChatPromptEncoder`.
    """
    if head.chat:
        return ChatPromptEncoder(tokenizer, head.pattern, slot, limit, head.system)
    return PromptEncoder(tokenizer, head.pattern, slot, limit)
