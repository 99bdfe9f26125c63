"""Chat: turns of a conversation as token ids by the tokenizer's own template, and which of them the assistant says.

A template that marks the assistant's tokens itself (`{% generation %}`) is believed. For any other the conversation is
rendered up to each of the assistant's turns with the template's generation prompt, and up to its end: what the second
has beyond the first is the assistant's, the token that ends the turn among it. TRL's SFTTrainer counts the same tokens.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from graft.errors import ConfigError
from graft.tasks.prompt import common_prefix

ASSISTANT = "assistant"


class Turn(NamedTuple):
    """What one role says."""

    role: str
    content: str


def require_template(tokenizer: Any) -> None:
    """Refuse a tokenizer without a chat template, or whose template has no place for an answer.

    Raises:
        ConfigError: there is none; or a prompt is rendered without the opening of the assistant's turn, or an answer
            otherwise than as what follows it.
    """
    if not tokenizer.chat_template:
        raise ConfigError("the model's tokenizer has no chat template, which turns of a chat need")
    turns = (Turn("user", "x"), Turn(ASSISTANT, "y"))
    opened = _text(tokenizer, turns[:1], opens=True)
    if opened == _text(tokenizer, turns[:1]):
        raise ConfigError("the tokenizer's chat template opens no turn for the assistant (add_generation_prompt)")
    _require_continued(opened, _text(tokenizer, turns))


def render(tokenizer: Any, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
    """Return the token ids of a conversation, and for each whether it is the assistant's, the end of a turn included.

    Raises:
        ConfigError: the template refuses the turns or leaves one out; or what it renders up to one of the assistant's
            turns is not how the whole conversation begins.
    """
    text = _text(tokenizer, turns)
    for turn in turns:
        if turn.content.strip() not in text:
            raise ConfigError(f"the tokenizer's chat template leaves out what {turn.role!r} says")
    if _marks_answers(tokenizer):
        marked = _encode(tokenizer, turns, return_assistant_tokens_mask=True)
        return list(marked["input_ids"]), [bool(flag) for flag in marked["assistant_masks"]]
    ids = list(_encode(tokenizer, turns)["input_ids"])
    said = [False] * len(ids)
    for i in (i for i, turn in enumerate(turns) if turn.role == ASSISTANT):
        opened, alone = _text_before(tokenizer, turns, i), _text(tokenizer, turns[: i + 1])
        # as far as both go: some templates close the whole conversation by one token more
        _require_continued(opened, text[: common_prefix(alone, text)], turns[i].content)
        start = common_prefix(_tokenize(tokenizer, opened), ids)
        end = common_prefix(_encode(tokenizer, turns[: i + 1])["input_ids"], ids)
        said[start:end] = [True] * (end - start)
    return ids, said


def render_answer(tokenizer: Any, turns: Sequence[Turn]) -> tuple[list[int], int]:
    """Return the token ids of a conversation whose last turn is the answer, and where that begins.

    All that follows the prompt counts as the answer, whatever the template marks, as TRL counts a completion.

    Raises:
        ConfigError: as `render`.
    """
    _require_continued(_text(tokenizer, turns[:-1], opens=True), _text(tokenizer, turns))
    ids, _ = render(tokenizer, turns)
    return ids, common_prefix(prompt_ids(tokenizer, turns[:-1]), ids)


def opening_text(tokenizer: Any, turns: Sequence[Turn]) -> str:
    """Return turns that the assistant is about to answer as the text of `prompt_ids`.

    Raises:
        ConfigError: the template refuses the turns.
    """
    return _text(tokenizer, turns, opens=True)


def prompt_ids(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """Return the token ids of turns that the assistant is about to answer, its turn opened.

    Raises:
        ConfigError: the template refuses the turns.
    """
    return list(_encode(tokenizer, turns, add_generation_prompt=True)["input_ids"])


def end_token(tokenizer: Any) -> int | None:
    """Return the special token by which the template ends the assistant's turn; None where it ends by plain text."""
    turns = (Turn("user", "x"), Turn(ASSISTANT, "y"))
    opened, whole = _text(tokenizer, turns[:1], opens=True), _text(tokenizer, turns)
    after = whole[len(opened) :].partition("y")[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    return ids[0] if ids and ids[0] in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} else None


def mark_tokens(tokenizer: Any) -> set[int]:
    """Return the tokens by which a chat is told apart into turns, and which what is said in them must not hold.

    They are the special tokens, but for unknown text, and tokens added to the vocabulary that the template writes
    around what is said.
    """
    added = tokenizer.added_tokens_decoder
    marks = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
    if tokenizer.unk_token not in (tokenizer.bos_token, tokenizer.eos_token):
        marks.discard(tokenizer.unk_token_id)
    with contextlib.suppress(ConfigError):  # a template that wants other turns
        written = _encode(tokenizer, [Turn("user", "x"), Turn(ASSISTANT, "y"), Turn("user", "x")])["input_ids"]
        marks |= {number for number in written if number in added and added[number].content.strip()}
    return marks


def _marks_answers(tokenizer: Any) -> bool:
    return re.search(r"\{%-?\+?\s*generation\s*-?\+?%\}", str(tokenizer.chat_template)) is not None


def _text_before(tokenizer: Any, turns: Sequence[Turn], i: int) -> str:
    """Return a conversation up to what the assistant says in its turn i, which is opened.

    Templates render no conversation without turns. What comes before a first turn is therefore how the conversation
    begins whatever that turn says, as far as the opening that the template gives a turn elsewhere.
    """
    if i:
        return _text(tokenizer, turns[:i], opens=True)
    texts = [_text(tokenizer, [Turn(ASSISTANT, content), *turns[1:]]) for content in "xy"]
    before = texts[0][: common_prefix(*texts)]
    asked = (Turn("user", "x"),)
    opening = _text(tokenizer, asked, opens=True).removeprefix(_text(tokenizer, asked))
    return before[: before.rindex(opening) + len(opening)] if opening in before else before


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a rendered text, which holds all special tokens already."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _require_continued(opened: str, whole: str, content: str = "") -> None:
    """Require that a text begins as the prompt did, and goes on to hold an answer."""
    if not whole.startswith(opened) or content.strip() not in whole[len(opened) :]:
        raise ConfigError(
            "the tokenizer's chat template renders the assistant's turn otherwise than as a continuation of the prompt "
            f"({opened[-30:]!r}), so that a model would learn another prompt than it answers"
        )


def _text(tokenizer: Any, turns: Sequence[Turn], *, opens: bool = False) -> str:
    return str(_apply(tokenizer, turns, tokenize=False, add_generation_prompt=opens))


def _encode(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> Any:
    quiet = {"verbose": False}  # about texts that are longer than the model's inputs
    return _apply(tokenizer, turns, tokenize=True, return_dict=True, tokenizer_kwargs=quiet, **options)


def _apply(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> Any:
    import jinja2

    messages = [turn._asdict() for turn in turns]
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(turn.role for turn in turns)
        fact = " ".join(str(error).split())[:200]
        raise ConfigError(f"the tokenizer's chat template refuses turns of {roles} ({fact})") from error
