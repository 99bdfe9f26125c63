"""A patch file read row by row: memory holds one tensor's entries, however many files are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from graft.errors import CheckpointError, PatchFormatError
from graft.files.header import StoredTensor, shown
from graft.files.tensor_spec import ITEM_SIZES
from graft.patch.coding import decode_bits, decode_gaps
from graft.patch.file import read_declaration, read_patch_header
from graft.patch.layout import check_layout
from graft.patch.mask import Indices
from graft.patch.provenance import Provenance
from graft.patch.rows import Row
from graft.tensors.dtypes import from_bytes, is_finite
from graft.tensors.prints import print_of


@dataclass(frozen=True, eq=False)
class PatchFile:
    """An opened patch or mask file: header and hashes have been checked whole, its rows are checked as they are read.

    Attributes:
        path: the file.
        kind: "patch" or "mask".
        rows: tensor name -> row, in ascending order of name.
        provenance: where it came from.
        tensors: what the file holds and where.
    """

    path: Path
    kind: str
    rows: Mapping[str, Row]
    provenance: Provenance
    tensors: Mapping[str, StoredTensor]
    _places: Mapping[str, tuple[int, int]]  # row -> bytes before its code, entries of its dtype before its values

    @classmethod
    def open(cls, path: Path) -> PatchFile:
        """Read and check the header of a file, or of the one in a folder, and compare its tensors with their hashes.

        Raises:
            PatchFormatError: missing, not a patch, another format, a header that contradicts itself, or a tensor whose
                bytes do not match their hash.
        """
        file, header = read_patch_header(path)
        declared = read_declaration(header, str(file))
        check_layout(header, declared.rows, declared.kind, str(file))
        try:
            declared.seal.check(file, header)  # rows are read one by one later, but hashes are of wholes
        except CheckpointError as error:
            raise PatchFormatError(str(error)) from error
        rows = {row.name: row for row in declared.rows}
        return cls(file, declared.kind, rows, declared.provenance, header.tensors, _places_of(declared.rows))

    @property
    def has_base(self) -> bool:
        """Whether the base's values are stored."""
        return any(name.startswith("base.") for name in self.tensors)

    @property
    def dense(self) -> tuple[str, ...]:
        """Names of the whole tensors."""
        return tuple(sorted(name.removeprefix("dense/") for name in self.tensors if name.startswith("dense/")))

    def read(self, name: str) -> tuple[Indices, torch.Tensor | None, torch.Tensor | None]:
        """The indices (k,), tuned values (k,) or None, and stored base values (k,) or None of one tensor.

        Raises:
            PatchFormatError: a code that does not hold what its row says, values that are not finite or do not match
                their print, or a file that was cut short since it was opened.
        """
        row, (coded, before) = self.rows[name], self._places[name]
        try:
            indices = self._indices(row, coded)
        except ValueError as error:
            raise self._refuse(name, str(error)) from error
        values, base = (
            self._values(row, key, before) if f"{key}.{row.dtype}" in self.tensors else None
            for key in ("values", "base")
        )
        for found, expected in ((values, row.result_print), (base, row.base_print)):
            if found is not None and print_of(found) != expected:
                raise self._refuse(name, "its values do not match their print")
        return indices, values, base

    def read_dense(self, name: str) -> torch.Tensor:
        """A whole tensor.

        Raises:
            PatchFormatError: a value is NaN or infinite.
        """
        stored = self.tensors[f"dense/{name}"]
        tensor = from_bytes(self._bytes(stored.start, stored.stop), stored.spec.dtype, stored.spec.shape)
        return self._finite(name, tensor)

    def _indices(self, row: Row, coded: int) -> Indices:
        if row.code == "all":
            return np.arange(row.k, dtype=np.int64)
        if row.code == "bits":
            start = self.tensors["bits"].start + coded
            bits = np.frombuffer(self._bytes(start, start + row.n_bytes_bits), np.uint8)
            return decode_bits(bits, row.k, row.spec.numel)
        start = self.tensors["gaps"].start + coded
        tokens = np.frombuffer(self._bytes(start, start + 2 * row.t), "<u2")
        return decode_gaps(tokens.astype(np.uint16), row.k, row.spec.numel)

    def _values(self, row: Row, key: str, before: int) -> torch.Tensor:
        start = self.tensors[f"{key}.{row.dtype}"].start + before * ITEM_SIZES[row.dtype]
        data = self._bytes(start, start + row.k * ITEM_SIZES[row.dtype])
        return self._finite(row.name, from_bytes(data, row.dtype, (row.k,)))

    def _bytes(self, start: int, stop: int) -> bytes:
        try:
            with self.path.open("rb") as file:  # not kept open: a thousand files are more than a process may hold
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:
            raise PatchFormatError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(data) != stop - start:
            raise PatchFormatError(f"{self.path}: cut short while it was read")
        return data

    def _finite(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not is_finite(tensor):
            raise self._refuse(name, "holds NaN or infinite values")
        return tensor

    def _refuse(self, name: str, fact: str) -> PatchFormatError:
        return PatchFormatError(f"{self.path}: tensor {shown(name)}: {fact}")


def _places_of(rows: tuple[Row, ...]) -> dict[str, tuple[int, int]]:
    ends = {code: [0, *accumulate(_code_bytes(row, code) for row in rows)] for code in ("gaps", "bits", "all")}
    entries: dict[str, int] = {}
    places = {}
    for i, row in enumerate(rows):
        places[row.name] = (ends[row.code][i], entries.get(row.dtype, 0))
        entries[row.dtype] = entries.get(row.dtype, 0) + row.k
    return places


def _code_bytes(row: Row, code: str) -> int:
    return (row.n_bytes_bits if code == "bits" else 2 * row.t) if row.code == code else 0
