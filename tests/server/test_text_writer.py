"""Text of tokens as they come: together it is what the whole answer decodes to, up to a stop text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graft.server.text_writer import TextWriter
from tests.chat_models import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = st.text(alphabet="ab é€😀\n", max_size=20)


def written(text: str, stops: list[str]) -> tuple[str, TextWriter, list[str]]:
    writer = TextWriter(TOKENIZER, TOKENIZER("before: ")["input_ids"], stops)
    parts = [writer.write(token) for token in TOKENIZER(text)["input_ids"]]
    parts.append(writer.finish())
    return "".join(parts), writer, parts


@given(TEXTS)
def test_parts_are_whole_characters_and_make_the_text(text: str) -> None:
    whole, writer, parts = written(text, [])
    assert whole == text
    assert not writer.is_stopped
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)


@given(TEXTS, st.lists(st.text(alphabet="ab é€😀", min_size=1, max_size=3), min_size=1, max_size=3))
def test_nothing_comes_from_a_stop_text_on(text: str, stops: list[str]) -> None:
    whole, writer, _ = written(text, stops)
    places = [text.find(stop) for stop in stops if stop in text]
    assert writer.is_stopped == bool(places)
    assert whole == (text[: min(places)] if places else text)
