"""Table of a patch file: one row per tensor, checked before anything is allocated."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from graft.errors import PatchFormatError
from graft.files.header import clip_text, quote
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.patch.format.lines import LINE_CODES, measure_lines

_HASH = re.compile(r"[0-9a-f]{16}")
# "all" rows of a mask file take no bytes and lines few: only this bounds what a small file can make us allocate
MAX_FREE_ENTRIES = 2**31


@dataclass(frozen=True)
class TensorRow:
    """A row `[name, dtype, shape, code, k, t, base_print, result_print]` (contract, section 4)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    code: str
    k: int
    t: int
    base_print: str | None
    result_print: str | None

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape of the whole tensor."""
        return TensorSpec(self.dtype, self.shape)

    @property
    def payload(self) -> str:
        """Name of the file's tensor that holds the row's code: "gaps", "bits", or "all", which none does."""
        return "gaps" if self.code in LINE_CODES else self.code

    @property
    def n_bytes_bits(self) -> int:
        """Bytes that the row takes in `bits`."""
        return -(-self.spec.numel // 8) if self.code == "bits" else 0

    @property
    def n_code_bytes(self) -> int:
        """Bytes that the row takes in `gaps` or `bits`, whichever its code is."""
        return self.n_bytes_bits if self.code == "bits" else 2 * self.t

    def to_json(self) -> list[Any]:
        """Return the row as the file holds it."""
        return [list(item) if isinstance(item, tuple) else item for item in astuple(self)]


def read_table(value: Any, kind: str, where: str) -> tuple[TensorRow, ...]:
    """Check the table of a patch ("patch") or mask ("mask") file.

    Raises:
        PatchFormatError: naming the tensor and the fact.
    """
    if not isinstance(value, list) or not value:
        raise PatchFormatError(f"{where}: no table of tensors, or an empty one")
    rows = tuple(_read_row(item, kind, where) for item in value)
    _check_order(rows, where)
    free = sum(row.k for row in rows if row.code in ("all", *LINE_CODES))
    if kind == "mask" and free > MAX_FREE_ENTRIES:
        raise PatchFormatError(f"{where}: declares {free:,} entries without data, more than {MAX_FREE_ENTRIES:,}")
    return rows


def _read_row(item: Any, kind: str, where: str) -> TensorRow:
    if not isinstance(item, list) or len(item) != 8 or not isinstance(item[0], str):
        raise PatchFormatError(
            f"{where}: a row of its table is not [name, dtype, shape, code, k, t, base_print, result_print]"
        )
    name, dtype, shape, code, k, t, base_print, result_print = item

    def refusal(fact: str) -> PatchFormatError:
        return PatchFormatError(f"{where}: tensor {quote(name)} {clip_text(fact)}")

    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise refusal(f"has an unknown dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(_is_count(size) for size in shape):
        raise refusal("has an impossible shape")
    row = TensorRow(name, dtype, tuple(shape), str(code), k, t, base_print, result_print)
    if not _is_count(k) or not _is_count(t) or not 1 <= k <= row.spec.numel < 2**63:
        raise refusal(f"has {k!r} entries in {t!r} tokens, which its shape {list(shape)} cannot hold")
    if code not in ("all", "bits", "gaps", *LINE_CODES) or (code == "all") != (k == row.spec.numel):
        raise refusal(f"has code {code!r} for {k} of {row.spec.numel} elements")
    if code in LINE_CODES and (len(shape) != 2 or k % measure_lines(code, row.shape)[1]):
        raise refusal(f"has code {code!r} for {k} entries, which are no whole {code} of its shape {shape}")
    fewest = k // measure_lines(code, row.shape)[1] if code in LINE_CODES else k
    if (t < fewest) if row.payload == "gaps" else (t != 0):
        raise refusal(f"has {t} tokens for {k} entries in code {code!r}")
    _check_hashes(row, kind, refusal)
    return row


def _check_hashes(row: TensorRow, kind: str, refusal: Any) -> None:
    for text, needed in ((row.base_print, kind == "patch"), (row.result_print, kind == "patch")):
        if text is None and not needed:
            continue
        if not isinstance(text, str) or not _HASH.fullmatch(text):
            raise refusal("has a print that is not 16 hex digits")


def _check_order(rows: Sequence[TensorRow], where: str) -> None:
    for before, after in itertools.pairwise(rows):
        if before.name >= after.name:
            raise PatchFormatError(f"{where}: tensor {quote(after.name)} is out of order or occurs twice")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
