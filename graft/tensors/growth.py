"""Tensors of one name and two shapes: a vocabulary that grew, a head of another size, or nothing to compare.

A model has one vocabulary: its token embeddings, its output layer and that layer's bias have as many rows as its config
says (`vocab_size`), which may be more than the tokenizer has tokens, because of padding. Where all of them have more
rows in the tuned model and agree in every other dimension, the rows that both have are compared as usual, and the new
ones are whole tensors of their own. A head is what lies outside the layers and the embeddings and is no vocabulary:
where its first dimension, the outputs, is another, it is replaced whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.files.model_config import read_model_config
from graft.files.tensor_spec import TensorSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import kind_of

SIZE_KEYS = ("vocab_size", "decoder_vocab_size")
_OTHER_TABLES = re.compile(r"position|type|wpe|segment|speaker|lang", re.IGNORECASE)  # embeddings of no tokens


@dataclass(frozen=True)
class Growth:
    """Rows that a tuned vocabulary added to a tensor.

    Attributes:
        start: rows of the base's tensor, the id of the first new token.
        tokens: the new rows' tokens, None for a row of padding; empty where no tokenizer told them.
    """

    start: int
    tokens: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Shapes:
    """The matched tensors whose shapes differ.

    Attributes:
        grown: base names of the tensors to which the tuned vocabulary added rows.
        replaced: base names of the heads of another size.
        unlike: base name -> why it cannot be compared.
    """

    grown: frozenset[str]
    replaced: frozenset[str]
    unlike: Mapping[str, str]


def compare_shapes(base: Checkpoint, tuned: Checkpoint, names: Mapping[str, str]) -> Shapes:
    """Classify the tensors of two checkpoints whose shapes, or kinds of number, differ.

    Args:
        base, tuned: the checkpoints.
        names: base name -> tuned name.
    """
    pairs = {name: (base.spec(name), tuned.spec(other)) for name, other in names.items()}
    shapes = {name: (left.shape, right.shape) for name, (left, right) in pairs.items() if left.shape != right.shape}
    unlike = {
        name: f"tensor {name!r} is {left.dtype} in the base and {right.dtype} in the tuned checkpoint"
        for name, (left, right) in pairs.items()
        if left.is_float != right.is_float
    }
    rows = (vocabulary_rows(base), vocabulary_rows(tuned)) if shapes else (frozenset[int](), frozenset[int]())
    grown = {name for name, sizes in shapes.items() if _has_grown(*sizes, *rows)} - unlike.keys()
    heads = heads_among({name: shapes[name] for name in shapes.keys() - grown}, rows[0]) - unlike.keys()
    for name in shapes.keys() - grown - heads:
        left, right = map(list, shapes[name])
        unlike[name] = f"tensor {name!r} has shape {left} in the base, {right} in the tuned checkpoint"
    return Shapes(frozenset(grown), heads, dict(sorted(unlike.items())))


def heads_among(
    shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]], vocabulary: frozenset[int]
) -> frozenset[str]:
    """Return the tensors that are heads of another number of outputs, and so are replaced whole.

    Args:
        shapes: tensor name -> its shape in the base, and the other one.
        vocabulary: rows of the base's vocabulary, whose output layer is no head in this sense.
    """
    heads = {name for name, sizes in shapes.items() if kind_of(name) == "heads" and _outputs_differ(*sizes, vocabulary)}
    matrices = {name for name in heads if len(shapes[name][0]) > 1}
    return frozenset(matrices | {name for name in heads if f"{name.rpartition('.')[0]}.weight" in matrices})


def _outputs_differ(before: Sequence[int], after: Sequence[int], vocabulary: frozenset[int]) -> bool:
    """Return whether two shapes differ in the outputs alone: the rows, or the columns of a single row."""
    if not before or len(before) != len(after):
        return False
    if len(before) == 2 and before[0] == after[0] == 1:
        return True
    return tuple(before[1:]) == tuple(after[1:]) and before[0] not in vocabulary


def vocabulary_rows(checkpoint: Checkpoint) -> frozenset[int]:
    """Return how many rows a checkpoint's vocabulary has, by its config; without one by the names of its embeddings."""
    declared = frozenset(size for _, _, size in _declared_sizes(read_model_config(checkpoint.path)))
    return declared or rows_by_name(checkpoint.names, checkpoint.spec)


def rows_by_name(names: Sequence[str], spec: Callable[[str], TensorSpec]) -> frozenset[int]:
    """Return rows of the matrices that are token embeddings by their names."""
    tables = (spec(name).shape for name in names if kind_of(name) == "embeddings" and not _OTHER_TABLES.search(name))
    return frozenset(shape[0] for shape in tables if len(shape) == 2)


def declare_rows(folder: Path, before: int, after: int) -> None:
    """Write into a model folder's config.json, where there is one, how many rows its vocabulary now has."""
    config = read_model_config(folder)
    if not config:
        return
    declarations = [(block, key) for block, key, size in _declared_sizes(config) if size == before]
    for block, key in declarations or [(config, SIZE_KEYS[0])]:
        block[key] = after
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def declare_outputs(folder: Path, before: int, after: int) -> None:
    """Write a head's new number of outputs into a model folder's config.json, with the labels LABEL_0 and so on.

    Nothing is written where the config has another number of labels than the head that was replaced.
    """
    config = read_model_config(folder)
    labels = config.get("id2label")
    n_declared = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)  # transformers' default
    if config and n_declared == before != after:
        config.pop("num_labels", None)
        config["id2label"] = {str(number): f"LABEL_{number}" for number in range(after)}
        config["label2id"] = {f"LABEL_{number}": number for number in range(after)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _has_grown(before: Sequence[int], after: Sequence[int], base: frozenset[int], tuned: frozenset[int]) -> bool:
    if not before or len(before) != len(after) or tuple(before[1:]) != tuple(after[1:]):
        return False
    return before[0] < after[0] and before[0] in base and after[0] in tuned


def _declared_sizes(block: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Yield a config's blocks, nested ones too, that name a vocabulary's size, with the key and the size."""
    for key, value in block.items():
        if key in SIZE_KEYS and type(value) is int:
            yield block, key, value
        elif isinstance(value, dict):
            yield from _declared_sizes(value)
