"""The tensors of a patch file, and how its rows share them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from graft.errors import CheckpointError, PatchFormatError
from graft.files.header import Header, clip_text, shown
from graft.patch.coding import decode_bits, decode_gaps
from graft.patch.integrity import Seal
from graft.patch.mask import Indices, Mask
from graft.patch.rows import Row
from graft.tensors.dtypes import from_bytes
from graft.tensors.pair import refuse_not_finite

_CODES = {"gaps": "U16", "bits": "U8"}


@dataclass(frozen=True)
class Payload:
    """A patch file's tensors in memory, lengths already checked against its rows."""

    where: str
    flat: Mapping[str, torch.Tensor]  # "gaps", "bits", "values.DT", "base.DT": 1-D
    dense: Mapping[str, torch.Tensor]  # by the name that follows "dense/"

    def has(self, key: str) -> bool:
        """Whether there are tensors "key.DT"."""
        return any(name.startswith(f"{key}.") for name in self.flat)


def read_payload(file: Path, header: Header, rows: Sequence[Row], kind: str, seal: Seal) -> Payload:
    """Check that the tensors are the ones that the rows call for, then read them.

    Raises:
        PatchFormatError: a tensor is missing, not allowed, or of another length, dtype or shape; its bytes do not match
            their hash; a value is not finite.
    """
    dense = check_layout(header, rows, kind, str(file))
    tensors = {}
    for name, stored in header.tensors.items():
        try:
            data = seal.read_tensor(file, name, stored)
            tensors[name] = from_bytes(data, stored.spec.dtype, stored.spec.shape)
            refuse_not_finite(tensors[name], name, file)
        except CheckpointError as error:
            raise PatchFormatError(str(error)) from error
    whole = {name.removeprefix("dense/"): tensors.pop(name) for name in sorted(dense)}
    return Payload(str(file), tensors, whole)


def check_layout(header: Header, rows: Sequence[Row], kind: str, where: str) -> set[str]:
    """Check from the header alone that a file's tensors are the ones that its rows call for.

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
        raise PatchFormatError(f"{where}: tensor {shown(name)} is not allowed in a {kind} file")
    for name, (dtype, length) in expected.items():
        if name not in specs or specs[name].dtype != dtype or specs[name].shape != (length,):
            found = clip_text(str(specs.get(name, "nothing")))
            raise PatchFormatError(
                f"{where}: tensor {shown(name)} must be {dtype}[{length}], but the file holds {found}"
            )
    return dense


def decode_mask(payload: Payload, rows: Sequence[Row]) -> Mask:
    """The mask of a file.

    Raises:
        PatchFormatError: a tensor's code does not hold what its row says.
    """
    gaps, bits = (_slices(payload, key, rows) for key in ("gaps", "bits"))
    indices = {}
    for row, row_gaps, row_bits in zip(rows, gaps, bits, strict=True):
        try:
            decoded = _decode(row, row_gaps.numpy(), row_bits.numpy())
        except ValueError as error:
            raise PatchFormatError(f"{payload.where}: tensor {shown(row.name)}: {error}") from error
        decoded.setflags(write=False)
        indices[row.name] = decoded
    # not `Mask.of`: what is decoded is sorted, unique and in range, and a copy would double the memory
    return Mask({row.name: row.spec for row in rows}, indices)


def split_values(payload: Payload, key: str, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Tensor name -> (k,) values out of the "key.DT" tensors."""
    position = dict.fromkeys(payload.flat, 0)
    values = {}
    for row in rows:
        source = f"{key}.{row.dtype}"
        start = position[source]
        values[row.name] = payload.flat[source][start : start + row.k]
        position[source] = start + row.k
    return values


def _expected_lengths(rows: Sequence[Row], kind: str, *, with_base: bool) -> dict[str, tuple[str, int]]:
    lengths: dict[str, tuple[str, int]] = {}
    for key, count in (("gaps", sum(row.t for row in rows)), ("bits", sum(row.n_bytes_bits for row in rows))):
        if count:
            lengths[key] = (_CODES[key], count)
    for row in rows if kind == "patch" else ():
        for key in ("values", "base") if with_base else ("values",):
            name = f"{key}.{row.dtype}"
            lengths[name] = (row.dtype, lengths.get(name, ("", 0))[1] + row.k)
    return lengths


def _slices(payload: Payload, key: str, rows: Sequence[Row]) -> Iterator[torch.Tensor]:
    whole = payload.flat.get(key, torch.empty(0, dtype=torch.uint8))
    start = 0
    for row in rows:
        stop = start + (row.t if key == "gaps" else row.n_bytes_bits)
        yield whole[start:stop]
        start = stop


def _decode(row: Row, gaps: np.ndarray, bits: np.ndarray) -> Indices:
    if row.code == "all":
        return np.arange(row.k, dtype=np.int64)
    if row.code == "bits":
        return decode_bits(bits, row.k, row.spec.numel)
    return decode_gaps(gaps, row.k, row.spec.numel)
