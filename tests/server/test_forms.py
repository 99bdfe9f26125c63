"""Forms: a body of any shape is read, or refused in one line, at a cost that is bounded."""

from __future__ import annotations

import json
import threading
import typing
from typing import Any

import pytest

from graft.server import forms
from graft.server.forms import ChatForm, EmbeddingForm, read_form
from graft.server.refusal import Refusal
from graft.specs.block import field_hints
from tests.server.client import Client

MESSAGE = {"role": "user", "content": "x"}


def chat(n_messages: int, n_parts: int = 0) -> bytes:
    content = [{"text": "x"}] * n_parts or "x"
    return json.dumps({"messages": [MESSAGE | {"content": content}] * n_messages}).encode()


def refused(kind: Any, body: bytes) -> str:
    with pytest.raises(Refusal) as refusal:
        read_form(kind, body)
    assert refusal.value.status == 400
    return str(refusal.value)


def test_the_types_of_a_form_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    look_up = typing.get_type_hints
    monkeypatch.setattr(typing, "get_type_hints", lambda kind, **more: (calls.append(kind), look_up(kind, **more))[1])
    field_hints.cache_clear()
    assert len(read_form(ChatForm, chat(50, 3)).messages) == 50
    assert len(calls) == len(set(calls)) == 3  # the form, a message, a part


@pytest.mark.parametrize("body", [chat(7000), chat(1, 11_000), b'{"input": [' + b"0," * 40_000 + b"0]}"])
def test_too_many_values_are_refused_before_any_is_converted(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "read_config", lambda *_: pytest.fail("it was asked"))
    assert "keys and values, more than 32,768" in refused(ChatForm, body)


def test_a_long_chat_is_read() -> None:
    assert len(read_form(ChatForm, chat(6000)).messages) == 6000


@pytest.mark.parametrize("depth", [64, 500, *range(940, 1000, 3), 5000, 100_000])
@pytest.mark.parametrize("around", ['{"input": [%s]}', '{"input": [{"a": %s}]}', '{"x": %s}'])
def test_deep_nesting_is_refused(depth: int, around: str) -> None:
    line = refused(EmbeddingForm, (around % ("[" * depth + "]" * depth)).encode())
    assert line.startswith("the body is not JSON (nested ")


def test_bodies_are_read_off_the_loop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def read(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read_form(*arguments)

    monkeypatch.setattr("graft.server.routes.body.read_form", read)
    client.post("/v1/embeddings", input="x")
    client.post("/classify", texts=["x"], skill="moods")
    client.refusal("/v1/chat/completions", messages=[])
    assert len(threads) == 3
    assert all(name.startswith("reader") for name in threads)
