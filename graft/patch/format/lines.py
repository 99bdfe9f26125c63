"""Codes of whole lines, "rows" and "columns", which make a file one of format 2.

A matrix whose entries are whole rows, or whole columns, needs the numbers of these lines alone: they are written as
gaps, as indices are, below the number of the matrix's lines.

    columns 1 and 3 of a 3 x 5 matrix: the indices 1 3 6 8 11 13    six tokens as indices, two as columns

Rows and columns are those of the matrix as it is stored. Only where a patch was made of lines (`Provenance.has_lines`)
are they looked for, so that every other file stays one of format 1, and only where they are shorter than the codes of
`graft.patch.format.coding` are they written.
"""

from __future__ import annotations

import numpy as np

from graft.files.tensor_spec import TensorSpec
from graft.patch.format.coding import Coded, Tokens, decode_gaps, encode_gaps, encode_indices
from graft.patch.mask import Indices

LINE_CODES = ("rows", "columns")
Shape = tuple[int, ...]


def measure_lines(code: str, shape: Shape) -> tuple[int, int]:
    """Return the number of lines of a matrix, and the entries of each, for the code "rows" or "columns"."""
    return shape if code == "rows" else (shape[1], shape[0])  # type: ignore[return-value]


def expand_lines(code: str, lines: Indices, shape: Shape) -> Indices:
    """Return the ascending flat indices of whole lines, whose numbers ascend."""
    n_rows, n_columns = shape
    if code == "rows":
        return (lines[:, None] * n_columns + np.arange(n_columns)).ravel()
    return (np.arange(n_rows)[:, None] * n_columns + lines).ravel()


def encode_entries(indices: Indices, spec: TensorSpec, *, by_line: bool) -> Coded:
    """Encode (k,) sorted unique flat indices; with `by_line` whole lines by their numbers, where that is shorter."""
    shape, coded = spec.shape, encode_indices(indices, spec.numel)
    code = _find_lines(indices, shape) if by_line and coded.code != "all" and len(shape) == 2 else None
    if code is None:
        return coded
    first = indices[:: shape[1]] // shape[1] if code == "rows" else indices[: indices.size // shape[0]]
    tokens = encode_gaps(first)
    return Coded(code, tokens, coded.bits[:0]) if tokens.nbytes < coded.gaps.nbytes + coded.bits.nbytes else coded


def decode_lines(code: str, tokens: Tokens, k: int, shape: Shape) -> Indices:
    """Decode (t,) tokens to the (k,) indices of whole lines.

    Raises:
        ValueError: the tokens do not hold so many lines, or one that the matrix lacks.
    """
    n_lines, length = measure_lines(code, shape)
    try:
        return expand_lines(code, decode_gaps(tokens, k // length, n_lines), shape)
    except ValueError as error:
        raise ValueError(f"{code}: {error}") from error


def _find_lines(indices: Indices, shape: Shape) -> str | None:
    """Return the code of the lines of which sorted indices hold every entry, None where they do not."""
    n_rows, n_columns = shape
    if indices.size % n_rows == 0:  # the entries of the first row, and those of each further one below them
        first = indices[: indices.size // n_rows]
        if np.array_equal(indices.reshape(n_rows, -1), np.arange(n_rows)[:, None] * n_columns + first):
            return "columns"
    if indices.size % n_columns == 0:
        starts = indices[::n_columns]
        whole = np.array_equal(indices.reshape(-1, n_columns), starts[:, None] + np.arange(n_columns))
        if whole and not (starts % n_columns).any():
            return "rows"
    return None
