"""Token counts: how many tokens the model would read for the labels of texts, which is known before it is asked."""

from __future__ import annotations

from typing import Any

from graft.specs.head import SECOND
from graft.tasks.batches import Texts, run_tokenizer
from graft.tasks.chat_prompt import open_prompts
from graft.tasks.head import Head
from graft.tasks.heads.similarity import SimilarityHead


class TokenCounter:
    """Counts tokens by a tokenizer that is not the model's own, so that the model's thread need not.

    Args:
        tokenizer: a copy of it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lengths: dict[Texts, int] = {}
        self._prompts: dict[Head, Any] = {}

    def count(self, head: Head, texts: Texts) -> int:
        """Return the tokens that a head reads of a text or a pair, each cut to its limit; a head may read one often.

        What is joined, such as a second text and a label's, may be counted as a token more or less.
        """
        if isinstance(head, SimilarityHead) and head.task.head.completes_pairs:
            return sum(min(head.limit, length) for length in self._lengths_of_pair(head, *texts))
        if head.task.head.kind == "verbalizer":
            return min(head.limit, self._length_of_prompt(head, texts))
        return min(head.limit, self._length(*texts))

    def _lengths_of_pair(self, head: SimilarityHead, first: str, second: str) -> list[int]:
        """Return the lengths of the first text, and of what the second would be under each label."""
        more = self._length(second) - self._length("")  # without the special tokens
        written = head.task.head.texts or ()
        labels = [
            self._length(filled) + text.count(SECOND) * more
            for text, (filled,) in zip(written, head.label_texts_for(""), strict=True)
        ]
        return [self._length(first), *labels]

    def _length_of_prompt(self, head: Head, texts: Texts) -> int:
        if head not in self._prompts:
            self._prompts[head] = open_prompts(self._tokenizer, head.task.head, "mask", head.limit)
        prompts, mask = self._prompts[head], self._tokenizer.mask_token
        filled = prompts.opening(texts) if mask is None else prompts.fill(texts, mask)
        return len(prompts.encode_open(filled) if mask is None else prompts.encode(filled))

    def _length(self, *texts: str) -> int:
        if texts not in self._lengths:
            self._lengths[texts] = len(run_tokenizer(self._tokenizer, *texts, verbose=False)["input_ids"])
        return self._lengths[texts]
