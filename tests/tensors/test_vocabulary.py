"""Tokens of new rows: read from the tuned tokenizer, added to the base's only where they get their own ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from graft.sources.made_checkpoint import link_tokenizer
from graft.tensors.vocabulary import (
    add_tokens,
    extend_tokenizer,
    has_tokenizer,
    is_of_tokenizer,
    open_tokenizer,
    read_tokens,
)
from tests.models import WORDS, word_tokenizer

N = len(WORDS)


def test_tokens_are_read_by_id_and_padding_has_none(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save_pretrained(tmp_path / "tuned")
    assert read_tokens(tmp_path / "tuned", N - 1, N + 4) == (WORDS[-1], "<a>", "<b>", None, None)
    (tmp_path / "none").mkdir()
    assert read_tokens(tmp_path / "none", N, N + 2) == read_tokens(tmp_path / "missing", N, N + 2) == ()


def test_tokens_are_added_to_a_folder_and_only_once(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path)
    before = open_tokenizer(tmp_path)("good <a>")["input_ids"]
    assert N not in before
    for _ in range(2):
        assert extend_tokenizer(tmp_path, N, ["<a>", "<b>", None])
        assert open_tokenizer(tmp_path)("good <b> <a>")["input_ids"][2:4] == [N + 1, N]
        assert len(open_tokenizer(tmp_path)) == N + 2


@pytest.mark.parametrize(
    ("start", "tokens"),
    [
        (N, []),
        (N, [None, None]),
        (N, [None, "<b>"]),  # padding between tokens
        (N + 3, ["<a>"]),  # the base's rows were padded
        (N - 2, ["<a>", "<b>"]),  # the base's tokenizer has more tokens than rows
        (N, ["good"]),
    ],
)
def test_tokens_that_would_get_other_ids_are_not_added(start: int, tokens: list[str | None]) -> None:
    tokenizer = word_tokenizer()
    before = tokenizer.get_vocab()
    assert not add_tokens(tokenizer, start, tuple(tokens))
    assert tokenizer.get_vocab() == before


NAMES = ["tokenizer.json", "vocab.txt", "spiece.model", "tokenizer.model", "prophetnet.tokenizer", "source.spm",
         "dict.txt", "bpe.codes", "qwen.tiktoken", "byte_maps.json"]  # fmt: skip
MORE = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "merges.txt",
        "normalizer.json", "word_shape.json"]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, *MORE, "config.json", "model.safetensors", "README.md"])
def test_one_list_says_what_is_a_tokenizers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source" / name).touch()
    assert is_of_tokenizer(name) == (name in [*NAMES, *MORE])
    assert has_tokenizer(tmp_path / "source") == (name in NAMES)
    opened: list[Path] = []
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder, **_: opened.append(folder))
    open_tokenizer(tmp_path / "source")
    assert bool(opened) == (name in [*NAMES, "tokenizer_config.json"])
    link_tokenizer(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target" / name).exists() == (name in [*NAMES, *MORE])
