"""Texts as batches that a model reads alike whatever is beside them: their padding, length and parts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch

from graft.errors import CheckpointError, ConfigError, DataError
from graft.tensors.out_of_memory import is_out_of_memory

Texts = tuple[str, ...]
_LENGTHS = ("max_position_embeddings", "max_sequence_length", "max_seq_len")  # what configs call the longest input


def encode_texts(tokenizer: Any, texts: Sequence[Texts], limit: int, side: Literal["left", "right"]) -> dict[str, Any]:
    """Texts, or pairs of texts, cut to `limit` tokens, as padded tensors (n, tokens) on the CPU.

    Raises:
        DataError: a text has no token.
        ConfigError: the limit is less than the special tokens take.
    """
    columns = [list(column) for column in zip(*texts, strict=True)]
    options = {"padding": True, "padding_side": side, "return_attention_mask": True, "return_tensors": "pt"}
    if limit <= tokenizer.num_special_tokens_to_add(pair=len(columns) > 1):
        raise ConfigError(
            f"a text may have {limit} tokens, by max_length, tokenizer or model, "
            "and that is no more than the special tokens that the tokenizer adds"
        )
    batch = dict(run_tokenizer(tokenizer, *columns, truncation=True, max_length=limit, **options))
    lengths = batch["attention_mask"].sum(1)
    if not bool(lengths.all()):
        raise DataError(f"{texts[int(lengths.argmin())][0][:40]!r} has no token to the model's tokenizer")
    return batch


def run_tokenizer(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """Token ids of texts, as the tokenizer gives them.

    Raises:
        CheckpointError: the tokenizer fails, as one without a token for what it does not know.
    """
    try:
        return tokenizer(*texts, **options)
    except Exception as error:  # the library below raises Exception itself
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the model's tokenizer cannot read these texts ({fact})") from error


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Token ids as (n, tokens) int64 with their attention mask, on the CPU.

    On the right whatever side the tokenizer would take: in a causal model no real token then sees a padded one, and
    positions count from 0 without being told.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def run_model(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Any:
    """The model's outputs for a batch, less the inputs that it does not know.

    Segments are left out where the model has none: GPT-2 would add the embedding of token 0 or 1 to every token, and a
    RoBERTa has one row for them.

    Raises:
        CheckpointError: the model cannot be run on texts alone, as where it needs pictures too, or its config is wrong.
    """
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in batch.items() if name in known or "input_ids" not in known}
    if not _has_segments(model.config):
        given.pop("token_type_ids", None)
    try:
        return model(**given, **options)
    except Exception as error:  # of many kinds, where a config promises what the model does not keep
        if is_out_of_memory(error):
            raise
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{type(model).__name__} cannot be run on texts alone ({fact})") from error


def longest_input(model: Any) -> int | None:
    """Tokens that the model has positions for; None where it has any number, as with relative ones.

    The tables say more than the config: of RoBERTa's kind the rows up to that of the padding are no token's, and BART's
    kind leaves as many out as it calls `offset`.
    """
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in _LENGTHS)
    found = [length for length in named if isinstance(length, int) and length > 0]
    found += [table.num_embeddings - _skipped(table) for table in position_tables(model)]
    return min(found, default=None)


def position_tables(model: Any) -> list[torch.nn.Embedding]:
    """The tables in which a model looks up absolute positions."""
    modules = ((name.rpartition(".")[2], module) for name, module in model.named_modules())
    return [
        module
        for name, module in modules
        if isinstance(module, torch.nn.Embedding)
        and re.fullmatch(r"wpe|embed_positions|positions_embed|position_embeddings?", name)
    ]


def embedded_tokens(model: Any) -> int | None:
    """How many token ids the model has embeddings for; None where that cannot be told."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None


def _skipped(table: torch.nn.Embedding) -> int:
    return int(getattr(table, "offset", 0)) if table.padding_idx is None else table.padding_idx + 1


def _has_segments(config: Any) -> bool:
    return bool(getattr(config, "type_vocab_size", 0) >= 2 or config.model_type == "xlnet")
