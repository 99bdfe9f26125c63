"""Read formats 1 and 2: open a file by its header, then read its rows one by one or all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from graft.arguments import checked
from graft.errors import CheckpointError, PatchFormatError
from graft.files.header import Header, StoredTensor, quote
from graft.files.tensor_spec import ITEM_SIZES
from graft.patch.format.coding import decode_bits, decode_gaps
from graft.patch.format.declaration import Declaration, read_declaration, read_patch_header
from graft.patch.format.layout import RowOffsets, locate_rows
from graft.patch.format.lines import LINE_CODES, decode_lines
from graft.patch.format.tensor_table import TensorRow
from graft.patch.mask import Indices, Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import from_bytes, is_finite
from graft.tensors.hashing import hash_values

Buffer = bytearray | memoryview
ReadBytes = Callable[[str, int, int], Buffer]  # tensor of the file, first byte and last byte + 1 in it -> its bytes


@checked
def load_patch(path: Path | str) -> Patch:
    """Load and check a patch; of a folder, its `patch.safetensors`.

    Raises:
        PatchFormatError: missing, truncated, junk, another format, a mask file, or anything that contradicts
            itself; the tensor and the fact are named.
    """
    region, _ = load_region(path)
    if not isinstance(region, Patch):
        raise PatchFormatError(f"{path}: a mask file holds no values; this needs a patch")
    return region


@checked
def load_mask(path: Path | str) -> Mask:
    """Load the region of a patch or mask file.

    Raises:
        PatchFormatError: as `load_patch`.
    """
    region, _ = load_region(path)
    return region.mask if isinstance(region, Patch) else region


def load_region(path: Path | str) -> tuple[Patch | Mask, Provenance]:
    """Load a file of either kind, with its provenance.

    Raises:
        PatchFormatError: as `load_patch`.
    """
    file = PatchFile.load(Path(path))
    entries = {name: file.read(name) for name in file.rows}
    for item in entries.values():
        item.indices.setflags(write=False)
    # not `Mask.of`: what is decoded is sorted, unique and in range, and a copy would double the memory
    mask = Mask({name: row.spec for name, row in file.rows.items()}, {n: item.indices for n, item in entries.items()})
    if file.kind == "mask":
        return mask, file.provenance
    values = {name: item.values for name, item in entries.items() if item.values is not None}
    base_values = {name: item.base for name, item in entries.items() if item.base is not None}
    hashes = {row.name: str(row.base_print) for row in file.rows.values()}
    dense = {name: file.read_dense(name) for name in file.dense}
    return Patch(mask, values, hashes, file.provenance, base_values if file.has_base else None, dense), file.provenance


def describe_integrity(path: Path | str) -> str:
    """Say whether a file that was loaded held hashes, which then agreed, or is older than they are.

    Raises:
        PatchFormatError: as `read_declaration`.
    """
    file, header = read_patch_header(Path(path))
    return read_declaration(header, str(file)).seal.verdict


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries that a patch or mask holds of one tensor.

    Attributes:
        indices: (k,) int64 sorted unique flat indices.
        values: (k,) the tuned values; None from a mask.
        base: (k,) the base's values, where they are stored.
    """

    indices: Indices
    values: torch.Tensor | None = None
    base: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class PatchFile:
    """An opened patch or mask file: header and hashes have been checked whole, its rows are checked as they are read.

    Attributes:
        path: the file.
        kind: "patch" or "mask".
        rows: tensor name -> row, in ascending order of name.
        provenance: where it came from.
        has_base: whether the base's values are stored.
        dense: names of the whole tensors, ascending.
    """

    path: Path
    kind: str
    rows: Mapping[str, TensorRow]
    provenance: Provenance
    has_base: bool
    dense: tuple[str, ...]
    _stored: Mapping[str, StoredTensor]
    _offsets: Mapping[str, RowOffsets]
    _read_bytes: ReadBytes

    @classmethod
    def open(cls, path: Path) -> PatchFile:
        """Open a file, or the one in a folder, to read row by row: memory holds one row, however many files are open.

        Raises:
            PatchFormatError: missing, not a patch, another format, a header that contradicts itself, or a tensor whose
                bytes do not match their hash.
        """
        file, header = read_patch_header(path)
        declared = read_declaration(header, str(file))
        try:
            declared.seal.check(file, header)  # rows are read one by one later, but hashes are of wholes
        except CheckpointError as error:
            raise PatchFormatError(str(error)) from error
        return cls._of(file, header, declared, _from_disk(file, header))

    @classmethod
    def load(cls, path: Path) -> PatchFile:
        """Open a file, or the one in a folder, with all its bytes in memory: they are read and hashed in one pass.

        Raises:
            PatchFormatError: as `open`.
        """
        file, header = read_patch_header(path)
        declared = read_declaration(header, str(file))
        try:
            contents = {name: declared.seal.read_tensor(file, name, item) for name, item in header.tensors.items()}
        except CheckpointError as error:
            raise PatchFormatError(str(error)) from error
        return cls._of(file, header, declared, lambda name, start, stop: memoryview(contents[name])[start:stop])

    @classmethod
    def _of(cls, file: Path, header: Header, declared: Declaration, read_bytes: ReadBytes) -> PatchFile:
        return cls(
            path=file,
            kind=declared.kind,
            rows={row.name: row for row in declared.rows},
            provenance=declared.provenance,
            has_base=declared.has_base,
            dense=tuple(declared.dense),
            _stored=header.tensors,
            _offsets=locate_rows(declared.rows),
            _read_bytes=read_bytes,
        )

    def read(self, name: str) -> Entries:
        """Read one tensor's row.

        Raises:
            PatchFormatError: a code that does not hold what its row says, values that are not finite or do not match
                their hash, or a file that was cut short since it was opened.
        """
        row = self.rows[name]
        try:
            indices = self._indices(row)
        except ValueError as error:
            raise self._refusal(name, str(error)) from error
        values, base = self._values(row, "values"), self._values(row, "base")
        for key, part, expected in (("result_print", values, row.result_print), ("base_print", base, row.base_print)):
            if part is not None and hash_values(part) != expected:
                raise self._refusal(name, f"its values do not match its {key}")
        return Entries(indices, values, base)

    def read_dense(self, name: str) -> torch.Tensor:
        """Read a whole tensor.

        Raises:
            PatchFormatError: a value is NaN or infinite.
        """
        stored = self._stored[f"dense/{name}"]
        data = self._read_bytes(f"dense/{name}", 0, stored.stop - stored.start)
        return self._check_finite(f"dense/{name}", from_bytes(data, stored.spec.dtype, stored.spec.shape))

    def _indices(self, row: TensorRow) -> Indices:
        if row.code == "all":
            return np.arange(row.k, dtype=np.int64)
        start = self._offsets[row.name].code
        data = self._read_bytes(row.payload, start, start + row.n_code_bytes)
        if row.code == "bits":
            return decode_bits(np.frombuffer(data, np.uint8), row.k, row.spec.numel)
        tokens = np.frombuffer(data, "<u2").astype(np.uint16, copy=False)
        if row.code in LINE_CODES:
            return decode_lines(row.code, tokens, row.k, row.shape)
        return decode_gaps(tokens, row.k, row.spec.numel)

    def _values(self, row: TensorRow, key: str) -> torch.Tensor | None:
        name = f"{key}.{row.dtype}"
        if name not in self._stored:
            return None
        start = self._offsets[row.name].values
        data = self._read_bytes(name, start, start + row.k * ITEM_SIZES[row.dtype])
        return self._check_finite(name, from_bytes(data, row.dtype, (row.k,)), f", at {quote(row.name)}")

    def _check_finite(self, name: str, tensor: torch.Tensor, of_row: str = "") -> torch.Tensor:
        if not is_finite(tensor):
            raise PatchFormatError(f"{self.path}: tensor {quote(name)} holds NaN or infinite values{of_row}")
        return tensor

    def _refusal(self, name: str, fact: str) -> PatchFormatError:
        return PatchFormatError(f"{self.path}: tensor {quote(name)}: {fact}")


def _from_disk(path: Path, header: Header) -> ReadBytes:
    """Return a reader that opens the file at each call: a process may not hold a thousand files open."""

    def read_bytes(name: str, start: int, stop: int) -> bytearray:
        data = bytearray(stop - start)
        try:
            with path.open("rb") as file:
                file.seek(header.tensors[name].start + start)
                n_read = file.readinto(data)
        except OSError as error:
            raise PatchFormatError(f"{path}: cannot be read ({error.strerror})") from error
        if n_read != len(data):
            raise PatchFormatError(f"{path}: cut short while it was read")
        return data

    return read_bytes
