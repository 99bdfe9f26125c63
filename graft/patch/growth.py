"""Rows that a tuned vocabulary added, as a patch describes them, and the check that all it holds is consistent."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from graft.files.header import quote
from graft.files.tensor_spec import TensorSpec
from graft.tensors.growth import Growth
from graft.tensors.pair import CheckpointPair
from graft.tensors.vocabulary import read_tokens


def grown_rows(pair: CheckpointPair, names: Collection[str]) -> dict[str, Growth]:
    """Find the tensors to which the tuned vocabulary added rows, with the tokens of its tokenizer."""
    tokens_of: dict[tuple[int, int], tuple[str | None, ...]] = {}
    growths = {}
    for name in sorted(pair.grown.intersection(names)):
        rows = pair.base.spec(name).shape[0], pair.tuned.spec(pair.names[name]).shape[0]
        if rows not in tokens_of:
            tokens_of[rows] = read_tokens(pair.tuned.path, *rows)
        growths[name] = Growth(rows[0], tokens_of[rows])
    return growths


def find_contradiction(
    grown: Mapping[str, Growth], specs: Mapping[str, TensorSpec], dense: Mapping[str, TensorSpec]
) -> str | None:
    """Find where what a patch holds contradicts itself, or its description of grown rows; None where all agrees.

    Args:
        grown: name -> rows, as the patch describes them.
        specs: tensor name -> dtype and shape in the base, of the tensors with entries.
        dense: name -> dtype and shape, of the whole tensors.
    """
    lengths: dict[int, int] = {}
    for name, growth in grown.items():
        rows = dense.get(name)
        if rows is None or not rows.shape or not rows.numel or not growth.start:
            return f"tensor {quote(name)}: 'grown' tells of new rows that are not there"
        if len(growth.tokens) not in (0, rows.shape[0]):
            return f"tensor {quote(name)}: {len(growth.tokens)} tokens for {rows.shape[0]} new rows"
        base = specs.get(name)
        if base is not None and (base.dtype, base.shape) != (rows.dtype, (growth.start, *rows.shape[1:])):
            return f"tensor {quote(name)}: new rows {rows} from row {growth.start} on do not continue {base}"
        if lengths.setdefault(growth.start, rows.shape[0]) != rows.shape[0]:
            return f"tensor {quote(name)}: {rows.shape[0]} new rows, but another of the vocabulary has others"
    if torn := specs.keys() & dense.keys() - grown.keys():
        return f"tensor {quote(min(torn))}: a patch holds entries of a tensor or all of it, not both"
    return None


def continue_shape(growth: Growth, rows: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a grown tensor, from that of its new rows."""
    return (growth.start + rows[0], *rows[1:])
