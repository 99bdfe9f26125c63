"""Text of tokens as they come: together it is what the whole answer decodes to, up to a stop text."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from graft.server.text_writer import TextWriter
from tests.chat_models import byte_tokenizer

TOKENIZER = byte_tokenizer()
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # as such tokenizers write it
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
@example(" aa", ["a", " aa"])
@example(" one", ["n", "one"])  # one token
def test_nothing_comes_from_a_stop_text_on(text: str, stops: list[str]) -> None:
    whole, writer, _ = written(text, stops)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert writer.is_stopped == bool(ends)
    assert whole == (text[: min(ends)[1]] if ends else text)  # the one that is complete first


def fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Characters of its vocabulary, and bytes for others, as Llama 2's has them."""
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    vocab |= {character: len(vocab) + i for i, character in enumerate(f"{SPACE}abx:")}
    inner = Tokenizer(BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


FALLBACK = fallback_tokenizer()


@given(TEXTS, TEXTS)
@example("😀😀", "😀 ok")
@example("a€é", "€b")
@example("\N{REPLACEMENT CHARACTER}" * 2, "😀")
def test_characters_that_are_written_as_bytes_come_whole_after_any_prompt(before: str, text: str) -> None:
    n_before = len(FALLBACK(f"x:{before}")["input_ids"])
    tokens = FALLBACK(f"x:{before}{text}")["input_ids"]
    writer = TextWriter(FALLBACK, tokens[:n_before])
    assert "".join([*map(writer.write, tokens[n_before:]), writer.finish()]) == text
