"""Tensors in an imported file that differ in size from the base's: new vocabulary rows, heads with other outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from graft.errors import MismatchError
from graft.sources.adapters.imported_weights import Edit, ImportedWeights, check_shape
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.growth import Growth, heads_among, vocabulary_rows
from graft.tensors.scope import kind_of
from graft.tensors.vocabulary import read_tokens


def resized_heads(weights: ImportedWeights, base_names: Mapping[str, str], base: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the heads of another size in the file, by the base's names and in the base's dtype."""
    tensors = {base_names[name]: read() for name, read in weights.whole.items() if name in base_names}
    shapes = {name: (base.spec(name).shape, tuple(tensor.shape)) for name, tensor in tensors.items()}
    resized = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    heads = heads_among(resized, vocabulary_rows(base)) if resized else frozenset()
    return {name: tensors[name].to(TORCH_DTYPES[base.spec(name).dtype]).clone() for name in sorted(heads)}


def new_rows(
    base: Checkpoint, edits: Mapping[str, Sequence[Edit]], file: Path
) -> tuple[dict[str, torch.Tensor], dict[str, Growth]]:
    """Return the rows that the file adds to the base's vocabulary, by the base's names, and their tokens.

    Raises:
        MismatchError: there are rows for a tensor outside the vocabulary, or for only some of its tensors.
    """
    vocabulary = vocabulary_rows(base)
    rows: dict[str, torch.Tensor] = {}
    for name in sorted(edits):
        before = base.read(name)
        tuned = edits[name][0](before) if before.ndim and len(before) in vocabulary else before
        if tuned.shape != before.shape:
            rows[name] = tuned[len(before) :].to(before.dtype, copy=True)
    if not rows:
        return {}, {}
    start, n = _require_one_size(base, rows)
    tokens = read_tokens(file if file.is_dir() else file.parent, start, start + n)
    return rows, dict.fromkeys(rows, Growth(start, tokens))


def cut_rows(base: Checkpoint, name: str, tuned: torch.Tensor) -> torch.Tensor:
    """Return a tuned tensor without the rows that the base lacks.

    Raises:
        MismatchError: it has such rows, and is no part of the vocabulary.
    """
    shape = base.spec(name).shape
    if tuned.shape == shape:
        return tuned
    if shape[0] not in vocabulary_rows(base):
        check_shape(name, tuned.shape, shape)
    return tuned[: shape[0]]


def _require_one_size(base: Checkpoint, rows: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return the numbers of old and new rows of a vocabulary, all of whose tensors must have grown alike."""
    first, *others = rows
    start, n = base.spec(first).shape[0], len(rows[first])
    of_vocabulary = (name for name in base.parameters if base.spec(name).shape[:1] == (start,))
    for name in [*others, *(name for name in of_vocabulary if kind_of(name) != "layers")]:
        n_new = len(rows[name]) if name in rows else 0
        if (base.spec(name).shape[0], n_new) != (start, n):
            raise MismatchError(
                f"the imported file adds {n:,} rows to {first!r} and {n_new:,} to {name!r}, which belong together: "
                "save the adapter with both, or merge it with PEFT and import it as dense"
            )
    return start, n
