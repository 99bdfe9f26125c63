"""What another tool's file holds in another size than the base: a vocabulary's new rows, heads of other outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from graft.errors import MismatchError
from graft.interop.imported_weights import Edit, ImportedWeights, check_shape
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.growth import Growth, heads_among, vocabulary_rows
from graft.tensors.scope import kind_of
from graft.tensors.vocabulary import read_tokens


def resized_heads(foreign: ImportedWeights, places: Mapping[str, str], base: Checkpoint) -> dict[str, torch.Tensor]:
    """The base's name -> a head of another size that the file brings, in the base's dtype."""
    whole = {places[name]: read() for name, read in foreign.whole.items() if name in places}
    shapes = {place: (base.spec(place).shape, tuple(tensor.shape)) for place, tensor in whole.items()}
    other = {place: pair for place, pair in shapes.items() if pair[0] != pair[1]}
    heads = heads_among(other, vocabulary_rows(base)) if other else frozenset()
    return {place: whole[place].to(TORCH_DTYPES[base.spec(place).dtype]).clone() for place in sorted(heads)}


def new_rows(
    base: Checkpoint, edits: Mapping[str, Sequence[Edit]], file: Path
) -> tuple[dict[str, torch.Tensor], dict[str, Growth]]:
    """The rows that the file adds to the base's vocabulary, by the base's names, and their tokens.

    Raises:
        MismatchError: rows for a tensor that is no part of the vocabulary, or for a part of the vocabulary alone.
    """
    vocabulary = vocabulary_rows(base)
    rows: dict[str, torch.Tensor] = {}
    for name in sorted(edits):
        before = base.read(name)
        tuned = edits[name][0](before) if before.ndim and len(before) in vocabulary else before
        if tuned.shape != before.shape:
            rows[name] = tuned[len(before) :].clone()
    if not rows:
        return {}, {}
    start, n = _one_size(base, rows)
    tokens = read_tokens(file if file.is_dir() else file.parent, start, start + n)
    return rows, dict.fromkeys(rows, Growth(start, tokens))


def cut_rows(base: Checkpoint, name: str, tuned: torch.Tensor) -> torch.Tensor:
    """What becomes of the rows that the base has.

    Raises:
        MismatchError: there are more, and the tensor is no part of the vocabulary.
    """
    shape = base.spec(name).shape
    if tuned.shape == shape:
        return tuned
    if shape[0] not in vocabulary_rows(base):
        check_shape(name, tuned.shape, shape)
    return tuned[: shape[0]]


def _one_size(base: Checkpoint, rows: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Rows before, and new rows, of a vocabulary that grew as a whole."""
    first, *others = rows
    start, n = base.spec(first).shape[0], len(rows[first])
    of_vocabulary = (name for name in base.parameters if base.spec(name).shape[:1] == (start,))
    for name in [*others, *(name for name in of_vocabulary if kind_of(name) != "layers")]:
        found = len(rows[name]) if name in rows else 0
        if (base.spec(name).shape[0], found) != (start, n):
            raise MismatchError(
                f"the imported file adds {n:,} rows to {first!r} and {found:,} to {name!r}, which belong together: "
                "save the adapter with both, or merge it with PEFT and import it as dense"
            )
    return start, n
