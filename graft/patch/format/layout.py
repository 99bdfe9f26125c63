"""Layout of a patch file: its tensors, and the bytes in them that belong to each row of its table.

The file has no tensor per weight of the model: all gaps are one tensor, all bit fields another, and all values of one
dtype a third, laid end to end in the order of the table. For rows a (gaps, 3 tokens, F32), b (all, F32), c (gaps, 2
tokens, BF16) and d (bits, 2 bytes, F32), with k = 3, 4, 2 and 9 entries:

    gaps         U16[5]    a a a c c                 c begins after 2 * 3 = 6 bytes
    bits         U8[2]     d d
    values.F32   F32[16]   a a a b b b b d d d ...   d begins after 4 * (3 + 4) = 28 bytes
    values.BF16  BF16[2]   c c

So one pass over the table tells where each row begins, and a single row can be read without the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graft.errors import PatchFormatError
from graft.files.header import Header, clip_text, quote
from graft.files.tensor_spec import ITEM_SIZES
from graft.patch.format.tensor_table import TensorRow

_CODES = {"gaps": "U16", "bits": "U8"}


@dataclass(frozen=True)
class RowOffsets:
    """The first byte of a row.

    Attributes:
        code: in the tensor "gaps" or "bits", whichever holds the row's code.
        values: in the tensors "values.DTYPE" and "base.DTYPE" of its dtype.
    """

    code: int
    values: int


def locate_rows(rows: Sequence[TensorRow]) -> dict[str, RowOffsets]:
    """Return the offsets of each row, by tensor name."""
    ends = dict.fromkeys(("gaps", "bits", "all"), 0) | {f"values.{row.dtype}": 0 for row in rows}
    offsets = {}
    for row in rows:
        key = f"values.{row.dtype}"
        offsets[row.name] = RowOffsets(ends[row.payload], ends[key])
        ends[row.payload] += row.n_code_bytes
        ends[key] += row.k * ITEM_SIZES[row.dtype]
    return offsets


def check_layout(header: Header, rows: Sequence[TensorRow], kind: str, where: str) -> set[str]:
    """Check from the header alone that a file's tensors are the ones that its rows require.

    Returns:
        The names of the whole tensors, "dense/..." each.

    Raises:
        PatchFormatError: a tensor is missing, not allowed, or of another length or dtype.
    """
    expected = _expected_lengths(rows, kind, with_base=any(name.startswith("base.") for name in header.tensors))
    specs = {name: stored.spec for name, stored in header.tensors.items()}
    dense = {name for name in specs if name.startswith("dense/") and len(name) > 6 and kind == "patch"}
    dense -= {name for name in dense if not specs[name].numel}
    for name in specs.keys() - dense - expected.keys():
        raise PatchFormatError(f"{where}: tensor {quote(name)} is not allowed in a {kind} file")
    for name, (dtype, length) in expected.items():
        if name not in specs or specs[name].dtype != dtype or specs[name].shape != (length,):
            stored = clip_text(str(specs.get(name, "nothing")))
            raise PatchFormatError(
                f"{where}: tensor {quote(name)} must be {dtype}[{length}], but the file holds {stored}"
            )
    return dense


def _expected_lengths(rows: Sequence[TensorRow], kind: str, *, with_base: bool) -> dict[str, tuple[str, int]]:
    lengths: dict[str, tuple[str, int]] = {}
    for code, count in (("gaps", sum(row.t for row in rows)), ("bits", sum(row.n_bytes_bits for row in rows))):
        if count:
            lengths[code] = (_CODES[code], count)
    for row in rows if kind == "patch" else ():
        for key in ("values", "base") if with_base else ("values",):
            name = f"{key}.{row.dtype}"
            lengths[name] = (row.dtype, lengths.get(name, ("", 0))[1] + row.k)
    return lengths
