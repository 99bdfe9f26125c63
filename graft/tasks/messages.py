"""Answers of rows: a column of completions, or the messages of a chat, as TRL and the Hub's datasets have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from graft.specs.data import SplitSpec
from graft.tasks.chat import ASSISTANT
from graft.tasks.labels import cell_of, refuse_row
from graft.tasks.rows import Row

_KEYS = ("role", "content")


def read_messages(row: Row, column: str, spec: SplitSpec, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what each message of a row's chat says, and its role.

    Raises:
        DataError: it is no list of {role, content}, a message has something else too, such as a call of a tool, says
            nothing, or none is the assistant's; the row is named.
    """
    messages = cell_of(row, column, spec, number)
    if not isinstance(messages, list) or not messages or not all(isinstance(item, Mapping) for item in messages):
        raise refuse_row(spec, number, f"{column!r} is not a list of messages, each with role and content")
    messages = [{**message, "content": _join_parts(message.get("content"), spec, number)} for message in messages]
    for message in messages:
        others = [key for key, value in message.items() if key not in _KEYS and value not in (None, [], "")]
        if others:
            raise refuse_row(spec, number, f"a message has {others[0]!r}; only role and content are read")
        if not all(is_text(message.get(key)) for key in _KEYS):
            fact = "an empty answer" if message.get("role") == ASSISTANT else "a message without a role or without text"
            raise refuse_row(spec, number, f"{fact} in {column!r}")
    roles = tuple(str(message["role"]) for message in messages)
    if ASSISTANT not in roles:
        raise refuse_row(spec, number, f"no message in {column!r} is the assistant's: there is no answer to learn")
    return tuple(str(message["content"]) for message in messages), roles


def _join_parts(content: Any, spec: SplitSpec, number: int) -> Any:
    """Return the text of a content that is a list of parts, as chats with pictures have it; any other as it is.

    Raises:
        DataError: a part is no text; the row is named.
    """
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            found = f"of type {kind!r}" if kind != "text" else "without its text"
            raise refuse_row(spec, number, f"a message has a part {found}; only parts of type 'text' are read")
    return "".join(part["text"] for part in content)


def refuse_empty_answer(row: Row, column: str, spec: SplitSpec, number: int) -> None:
    """Refuse a completion that is missing or says nothing.

    Raises:
        DataError: there is no such column, or it is empty, or white space; the row is named.
    """
    if column not in row:
        fact = f"no column {column!r}; it has {', '.join(map(str, row))}"
        raise refuse_row(spec, number, f"{fact}: head.kind completion reads answers, and prompts alone are not enough")
    value = cell_of(row, column, spec, number)
    if isinstance(value, str) and not value.strip():
        raise refuse_row(spec, number, f"an empty answer in {column!r}: there is nothing to learn")


def is_text(value: Any) -> bool:
    """Return whether a text is more than white space and holds no lone surrogate, half of a character."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)
