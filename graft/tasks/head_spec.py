"""The head block of a TASK file: how a model's outputs become logits, and what each kind of head may be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["similarity", "classifier", "verbalizer", "choice", "lm"]

_KEYS = {  # what each kind reads; another kind's key would be ignored without a word, and so is refused
    "similarity": {"texts", "template"},
    "classifier": set(),
    "verbalizer": {"words", "template"},
    "choice": {"template", "normalize"},
    "lm": set(),
}
SECOND = "{text_b}"
_TEMPLATES = {"similarity": "{}", "choice": "{text} {choice}"}


@dataclass(frozen=True)
class HeadSpec:
    """How a model's outputs become logits over the labels.

    Attributes:
        kind: "similarity" (20 x cosine between sentence and label-text embeddings), "classifier"
            (AutoModelForSequenceClassification, its head stored dense in the patch), "verbalizer" (the probability
            of a label's word in a template, by a masked or causal language model), "choice" (the likelihood of
            each of a row's choices after its text, by a causal language model) or "lm" (the next token of the
            text itself, which needs no label).
        texts: similarity: one text per label; the label names where absent. With {text_b} in them each is, of a pair,
            the second text as it would be under the label, and is compared with the first alone.
        template: similarity: a text with "{}" into which each label text, or choice, is put. verbalizer: such as
            "{text} It was {mask}."; under a causal model {mask} comes last. choice: such as
            "Question: {text} Answer: {choice}", {choice} last; "{text} {choice}" where absent. Pairs are
            {text_a} and {text_b}.
        words: verbalizer: one word per label, one token each; the label names where absent.
        normalize: choice: what the choice's log likelihood is divided by: "none", its "tokens" (where absent) or
            its "bytes".
    """

    kind: Kind = "similarity"
    texts: tuple[str, ...] | None = None
    template: str | None = None
    words: tuple[str, ...] | None = None
    normalize: Literal["none", "tokens", "bytes"] | None = None

    def __post_init__(self) -> None:
        for key in ("texts", "template", "words", "normalize"):
            if getattr(self, key) is not None and key not in _KEYS[self.kind]:
                kinds = " and ".join(kind for kind, keys in _KEYS.items() if key in keys)
                raise ValueError(f"{key} goes with kind {kinds}, not with {self.kind}")
        if self.kind == "similarity" and "{}" not in self.pattern:
            raise ValueError("template needs a {} where the label text goes")
        if self.kind == "verbalizer" and self.template is None:
            raise ValueError('the verbalizer needs a template, such as "{text} It was {mask}."')

    @property
    def pattern(self) -> str:
        """The template, or that of the kind where none is given; empty for a kind without."""
        return _TEMPLATES.get(self.kind, "") if self.template is None else self.template

    @property
    def completes_pairs(self) -> bool:
        """Whether label texts are made of each row's second text."""
        return any(SECOND in text for text in self.texts or ())

    def check_for(self, *, labels: int, pair: bool, choices: bool) -> None:
        """Refuse what does not go with the rest of the TASK file.

        Args:
            labels: how many labels the task has.
            pair: whether a row has two texts.
            choices: whether a row has choices of its own.

        Raises:
            ValueError: it does not go together; the message says why.
        """
        if choices and self.kind not in ("similarity", "choice"):
            raise ValueError(f"choices go with head.kind similarity and choice, not with {self.kind}")
        if self.kind == "choice" and not choices:
            raise ValueError("head.kind choice needs choices: the column that holds each row's list of texts")
        if self.kind == "lm" and (labels or pair):
            raise ValueError(f"head.kind lm reads one text column{' and no labels' if labels else ''}")
        if self.completes_pairs and not pair:
            raise ValueError(f"head.texts with {SECOND} need a pair: text: [first column, second column]")
        if choices and self.texts is not None:
            raise ValueError("head.texts belong to labels: with choices each row brings its own")
        for key in ("texts", "words"):
            given = getattr(self, key)
            if given is not None and len(given) != labels:
                raise ValueError(f"head.{key} has {len(given)} {key} for {labels} labels")
        if self.kind in ("verbalizer", "choice"):
            _check_places(self.pattern, "mask" if self.kind == "verbalizer" else "choice", pair)
        if self.kind == "choice" and not self.pattern.endswith("{choice}"):
            raise ValueError("head.template must end with {choice}: its likelihood is that after all the rest")


def _check_places(template: str, slot: str, pair: bool) -> None:
    allowed = ["text_a", "text_b", slot] if pair else ["text", slot]
    found = re.findall(r"\{(\w*)\}", template)
    if set(found) != set(allowed) or found.count(slot) != 1:
        listed = ", ".join(f"{{{name}}}" for name in allowed)
        raise ValueError(f"head.template {template!r} must hold {listed} and no other place, {{{slot}}} once")
