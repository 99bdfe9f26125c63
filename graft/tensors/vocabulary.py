"""Tokens of a model folder's tokenizer: read those of a grown vocabulary, and add them to the base's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError

# files of a vocabulary, by transformers' names for them, and those that say more of a tokenizer
_VOCABULARY = re.compile(
    r"tokenizer\.json|.*vocab.*|spiece.*|dict.*|byte_maps\.json|.*\.(model|tiktoken|spm|codes|tokenizer)"
)
_MORE = re.compile(r"(tokenizer|chat_template|special_tokens|added_tokens|merges|emoji|normalizer|word_(shape|pron)).*")
_CONFIG = "tokenizer_config.json"  # all there is of a tokenizer of bytes


def read_tokens(folder: Path, start: int, stop: int) -> tuple[str | None, ...]:
    """Read the tokens with the ids from start to stop, None where an id has none; empty without a tokenizer."""
    tokenizer = open_tokenizer(folder)
    if tokenizer is None:
        return ()
    token_of = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens = tuple(token_of.get(number) for number in range(start, stop))
    return tokens if any(tokens) else ()


def tokens_beyond(base: Path, tuned: Path) -> dict[str, int]:
    """Map each token that only the tuned folder's tokenizer has to its id; empty where a folder has none."""
    tokenizers = [open_tokenizer(folder) for folder in (base, tuned)]
    if None in tokenizers:
        return {}
    before, after = (tokenizer.get_vocab() for tokenizer in tokenizers)
    return {token: after[token] for token in sorted(after.keys() - before.keys(), key=after.__getitem__)}


def add_tokens(tokenizer: Any, start: int, tokens: Sequence[str | None]) -> bool:
    """Add new rows' tokens to a tokenizer; False, and nothing added, where they would not get the ids from start on.

    That is so where no token is known, where padding lies between tokens, or where the tokenizer's own tokens do not
    end where the base's rows end. Tokens that it has already under these ids are left as they are.
    """
    known = [token for token in tokens if token is not None]
    if not known or tokens[: len(known)] != tuple(known):
        return False
    vocabulary = tokenizer.get_vocab()
    if [vocabulary.get(token) for token in known] == list(range(start, start + len(known))):
        return True
    if any(token in vocabulary for token in known) or max(vocabulary.values(), default=-1) != start - 1:
        return False
    tokenizer.add_tokens(known)
    return True


def extend_tokenizer(folder: Path, start: int, tokens: Sequence[str | None]) -> bool:
    """Add tokens to the tokenizer of a model folder, which is saved in place.

    Raises:
        CheckpointError: the tokenizer cannot be saved.
    """
    tokenizer = open_tokenizer(folder)
    if tokenizer is None or not add_tokens(tokenizer, start, tuple(tokens)):
        return False
    try:
        with _quietly():
            tokenizer.save_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"the merged model's tokenizer cannot be saved with its new tokens ({error})") from error
    return True


def is_of_tokenizer(file: str) -> bool:
    """Return whether a file of that name in a model folder says what its tokenizer is."""
    return any(pattern.fullmatch(file) for pattern in (_VOCABULARY, _MORE))


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a vocabulary, and with it all of a tokenizer."""
    return folder.is_dir() and any(_VOCABULARY.fullmatch(file.name) for file in folder.iterdir())


def open_tokenizer(folder: Path) -> Any:
    """Open a model folder's tokenizer; None where transformers finds none, or needs code of its own to open it."""
    if not (has_tokenizer(folder) or (folder / _CONFIG).exists()):  # transformers would make up an empty one
        return None
    from transformers import AutoTokenizer

    try:
        with _quietly():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:  # of many kinds: no tokenizer, or one that this version does not know
        return None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
