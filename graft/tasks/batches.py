"""Batches of texts: padding, longest input, and running a model on them, the same in whatever company a text is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from graft.errors import CheckpointError, ConfigError, DataError, GraftError
from graft.tensors.out_of_memory import is_out_of_memory

Texts = tuple[str, ...]
Side = Literal["left", "right"]
_LENGTHS = ("max_position_embeddings", "max_sequence_length", "max_seq_len")  # keys of configs for the longest input
# architectures without positions, or whose states pass over what is masked: the tests compare each with texts alone
_PASS_OVER_PADDING = frozenset(
    {"bloom", "falcon_mamba", "jamba", "mamba", "mamba2", "mpt", "olmo_hybrid"}
    | {"qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"}
)


@dataclass(frozen=True)
class Encoded:
    """A text, or a pair of texts, as a model reads it.

    Attributes:
        ids: token ids with the special ones.
        is_cut: whether the limit leaves a part of it out.
        segments: for each token which text of the pair it is of, where the tokenizer says so.
    """

    ids: list[int]
    is_cut: bool
    segments: list[int] | None = None


def encode_texts(tokenizer: Any, texts: Sequence[Texts], limit: int) -> list[Encoded]:
    """Encode texts, or pairs of texts, each cut to `limit` tokens.

    Raises:
        DataError: a text has no token.
        ConfigError: the limit is less than the special tokens take.
    """
    columns = [list(column) for column in zip(*texts, strict=True)]
    if limit <= tokenizer.num_special_tokens_to_add(pair=len(columns) > 1):
        raise ConfigError(
            f"a text may have {limit} tokens, by max_length, tokenizer or model, "
            "and that is no more than the special tokens that the tokenizer adds"
        )
    batch = run_tokenizer(tokenizer, *columns, truncation=True, max_length=limit, verbose=False)
    rows = [list(ids) for ids in batch["input_ids"]]
    if not all(rows):
        raise DataError(f"{texts[rows.index([])][0][:40]!r} has no token to the model's tokenizer")
    segments = batch.get("token_type_ids") or [None] * len(rows)
    return [
        Encoded(ids, len(ids) >= limit and _is_cut(tokenizer, batch, number, texts[number]), own)
        for number, (ids, own) in enumerate(zip(rows, segments, strict=True))
    ]


def _is_cut(tokenizer: Any, batch: Any, number: int, texts: Texts) -> bool:
    """Return whether a row of a batch that has all the tokens it may have would have more."""
    if batch.encodings is None:  # a tokenizer in Python does not keep what it leaves out
        return len(run_tokenizer(tokenizer, *texts, verbose=False)["input_ids"]) > len(batch["input_ids"][number])
    return bool(batch.encodings[number].overflowing)


def pad_encoded(rows: Sequence[Encoded], tokenizer: Any, side: Side = "right") -> dict[str, torch.Tensor]:
    """Pad encoded texts as `pad_tokens` does, their segments too."""
    batch = pad_tokens([row.ids for row in rows], tokenizer.pad_token_id, side)
    if segments := [row.segments for row in rows if row.segments is not None]:
        batch["token_type_ids"] = pad_tokens(segments, tokenizer.pad_token_type_id, side)["input_ids"]
    return batch


def run_tokenizer(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """Run a tokenizer and return its token ids of texts.

    Raises:
        CheckpointError: the tokenizer fails, as one without a token for unknown text.
    """
    try:
        return tokenizer(*texts, **options)
    except Exception as error:  # the library below raises Exception itself
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the model's tokenizer cannot read these texts ({fact})") from error


def pad_tokens(rows: Sequence[Sequence[int]], pad: int, side: Side = "right") -> dict[str, torch.Tensor]:
    """Pad token ids: (n, tokens) int64 with their attention mask, on the CPU.

    On the right unless `side` says so, whatever side the tokenizer would choose: in a causal model no real token then
    sees a padded one, and positions count from 0 by default. On the left is for a model that writes on.
    """
    width = max(map(len, rows))
    gaps = [[pad] * (width - len(row)) for row in rows]
    ids = torch.tensor([[*row, *gap] if side == "right" else [*gap, *row] for row, gap in zip(rows, gaps, strict=True)])
    real = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    mask = (torch.arange(width) < real).long() if side == "right" else (torch.arange(width) >= width - real).long()
    return {"input_ids": ids, "attention_mask": mask}


def run_model(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Any:
    """Run a model on a batch, without the inputs that it does not know, and return its outputs.

    Segments are left out where the model has none: GPT-2 would add the embedding of token 0 or 1 to every token, and a
    RoBERTa has one row for them.

    Raises:
        CheckpointError: the model cannot be run on texts alone, as where it needs pictures too, or its config is wrong.
    """
    accepted = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in batch.items() if name in accepted or "input_ids" not in accepted}
    if not _has_segments(model.config):
        inputs.pop("token_type_ids", None)
    try:
        return model(**inputs, **options)
    except GraftError:  # in its own line, as of rows whose skills cannot be mixed
        raise
    except Exception as error:  # of many kinds, where config and weights disagree
        if is_out_of_memory(error):
            raise
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{type(model).__name__} cannot be run on texts alone ({fact})") from error


def reads_left_padding(model: Any) -> bool:
    """Return whether a model writes on after a text padded on the left as it does after the text alone.

    So it does where padding is masked and each token is given its position. A model that counts positions itself, as
    BART's decoder does, counts padding too; one that keeps states other than keys and values may have read it.
    """
    if model.config.get_text_config().model_type in _PASS_OVER_PADDING:
        return True
    return "position_ids" in inspect.signature(model.forward).parameters and not getattr(model, "_is_stateful", False)


def split_by_end(ids: torch.Tensor, end: int) -> list[torch.Tensor]:
    """Return the rows of (n, tokens) token ids in parts with equally many end tokens, each (m,) int64.

    The classifier of an encoder-decoder reads at the last of them, and takes such rows alone at once.

    Raises:
        DataError: a row has none.
    """
    counts = (ids == end).sum(1)
    if not bool(counts.all()):
        raise DataError("a text has no end token, at which this model reads the class")
    return [(counts == count).nonzero().squeeze(1) for count in sorted(set(counts.tolist()))]


def longest_input(model: Any) -> int | None:
    """Return the number of tokens that the model has positions for; None for any number, as with relative positions.

    The tables are more exact than the config: models like RoBERTa use no row up to that of the padding, and models like
    BART leave out the first `offset` rows. Positions that are scaled by longrope count as far as they are not.
    """
    config = model.config.get_text_config()
    declared = (getattr(config, name, None) for name in _LENGTHS)
    lengths = [length for length in (*declared, unscaled_length(model)) if isinstance(length, int) and length > 0]
    lengths += [table.num_embeddings - _count_skipped(table) for table in position_tables(model)]
    return min(lengths, default=None)


def unscaled_length(model: Any) -> int | None:
    """Return the number of tokens up to which a model with longrope has its first factors; None of any other.

    LongRoPE: arXiv 2402.13753. transformers turns all rows of a batch by the long factors where one row is longer, so
    that the others would have other states than alone; and what is written past this length would go on from keys
    turned by the short ones.
    """
    given: Any = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    settings = [given, *(part for part in given.values() if isinstance(part, Mapping))]  # of all layers, or of a kind
    scaled = [one for one in settings if one.get("rope_type") == "longrope"]
    return min((one["original_max_position_embeddings"] for one in scaled), default=None)


def first_position(model: Any) -> int:
    """Return the position of a text's first token as a model would count: 0, or past the padding's where rows have one.

    Models like RoBERTa are given positions from 0 on by transformers' `generate`, and count from there elsewhere.
    """
    return max((_count_skipped(table) for table in position_tables(model) if table.padding_idx is not None), default=0)


def position_tables(model: Any) -> list[torch.nn.Embedding]:
    """Return the tables in which a model looks up absolute positions."""
    modules = ((name.rpartition(".")[2], module) for name, module in model.named_modules())
    return [
        module
        for name, module in modules
        if isinstance(module, torch.nn.Embedding)
        and re.fullmatch(r"wpe|embed_positions|positions_embed|position_embeddings?", name)
    ]


def embedded_tokens(model: Any) -> int | None:
    """Return the number of token ids that the model has embeddings for; None where it is unknown."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None


def _count_skipped(table: torch.nn.Embedding) -> int:
    return int(getattr(table, "offset", 0)) if table.padding_idx is None else table.padding_idx + 1


def _has_segments(config: Any) -> bool:
    return bool(getattr(config, "type_vocab_size", 0) >= 2 or config.model_type == "xlnet")
