"""Importance weights as one safetensors file.

Tensors per weight tensor NAME: `gaps/NAME` or `bits/NAME`, coded as in a patch file, neither where every entry has
importance; `strength/NAME`. One metadata key, `skill_importance`: JSON with format, method, scale, a row [dtype, shape,
k, hash] per name, and hashes as in a patch file: `content` of the tensors, `table` of method, scale and rows. A file is
checked before its content is used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.errors import CheckpointError
from graft.files.claims import Output
from graft.files.header import Header, parse_json, quote, read_header
from graft.files.outputs import new_file
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.patch.format.coding import decode_bits, decode_gaps, encode_indices
from graft.patch.format.integrity import Seal, canonical_json, make_seal
from graft.patch.mask import Indices, Mask
from graft.tensors.dtypes import from_bytes, is_finite
from graft.train.importance.importance_weights import ImportanceWeights

FILE = "importance.safetensors"
KEY = "skill_importance"
_FORMAT = 1


def save_importance(importance: ImportanceWeights, path: Output, *, force: bool = False) -> None:
    """Write the file; the same content gives the same bytes.

    Raises:
        OutputError: it exists and `force` is off, or the disk refuses.
    """
    from safetensors.torch import save_file

    mask = importance.mask
    tensors: dict[str, torch.Tensor] = {}
    for name in mask:
        coded = encode_indices(mask[name], mask.specs[name].numel)
        parts = {"gaps": torch.from_numpy(coded.gaps), "bits": torch.from_numpy(coded.bits)}
        tensors |= {f"{kind}/{name}": part for kind, part in parts.items() if part.numel()}
        tensors[f"strength/{name}"] = importance.omega[name]
    hashes = importance.hashes
    rows = {name: [spec.dtype, list(spec.shape), mask[name].size, hashes[name]] for name, spec in mask.specs.items()}
    meta = {"format": _FORMAT, "method": importance.method, "scale": importance.scale, "tensors": rows}
    meta |= make_seal(tensors, _sealed(meta))
    with new_file(path, force=force) as temporary:
        save_file(tensors, temporary, metadata={KEY: canonical_json(meta)})


def load_importance(path: Path) -> ImportanceWeights:
    """Read and check the file.

    Raises:
        CheckpointError: missing, cut short, not such a file, or one that contradicts itself or its hashes; the fact is
            named.
    """
    header, meta, rows, seal = _open(path)
    file = _Tensors(path, header, seal)
    indices, omega = {}, {}
    for name, (spec, k, _) in rows.items():
        _check_length(header, name, k, path)
        indices[name] = _read_indices(file, name, spec, k)
        omega[name] = file.read(f"strength/{name}")
        if not (is_finite(omega[name]) and bool((omega[name].float() > 0).all())):
            raise CheckpointError(f"{path}: tensor {quote(name)}: a strength is not finite, or not above 0")
    mask = Mask.of({name: spec for name, (spec, _, _) in rows.items()}, indices)
    hashes = {name: value for name, (_, _, value) in rows.items()}
    return ImportanceWeights(mask, omega, float(meta["scale"]), hashes, meta["method"])


def is_importance_file(path: Path) -> bool:
    """Return whether a file declares that it holds importance."""
    try:
        return KEY in read_header(path).metadata
    except CheckpointError:
        return False


def describe_integrity(path: Path) -> str:
    """Describe for a person the hashes of a file that was loaded: they agreed, or the file is older and has none.

    Raises:
        CheckpointError: as `load_importance`.
    """
    return _open(path)[3].verdict


def describe_importance(importance: ImportanceWeights, path: Path) -> dict[str, Any]:
    """Describe a file of importance: method, k, and its bytes beside those of dense fp32 importance and anchor."""
    dense = 8 * sum(spec.numel for spec in importance.mask.specs.values())
    size = path.stat().st_size
    return {"method": importance.method, "k": len(importance.mask), "bytes": size, "bytes_dense": dense}


def find_importance(importance: str | None, base: Path) -> Path:
    """Find the file of importance: the one named, or the one that a recording training left in the base's folder.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(importance).expanduser() if importance is not None else base / FILE
    if not path.is_file():
        how = "make one by `graft train --record` or `graft importance --soft`"
        raise CheckpointError(f"{path}: no such file of importance; {how}")
    return path


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> tuple[Header, dict[str, Any], dict[str, tuple[TensorSpec, int, str]], Seal]:
    """Return the header, its JSON, its checked rows, and its hashes, which have not been compared yet."""
    header = read_header(path)
    meta = parse_json(header.metadata.get(KEY, "{}"), str(path))
    rows = _read_rows(meta, path)
    allowed = {f"{kind}/{name}" for kind in ("gaps", "bits", "strength") for name in rows}
    for name in sorted(header.tensors.keys() - allowed):
        raise CheckpointError(f"{path}: tensor {quote(name)} is not allowed in a file of importance")
    return header, meta, rows, Seal.read(meta, _sealed(meta), header.tensors, str(path))


def _sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the JSON that the hash of the table covers: all that gives the tensors their meaning."""
    return {key: meta[key] for key in ("method", "scale", "tensors")}


def _read_rows(meta: dict[str, Any], path: Path) -> dict[str, tuple[TensorSpec, int, str]]:
    if meta.get("format") != _FORMAT or not isinstance(meta.get("method"), str) or not meta.get("tensors"):
        raise CheckpointError(f"{path}: not a file of importance of format {_FORMAT}")
    try:
        rows = {
            name: (TensorSpec(dtype, tuple(shape)), k, str(value))
            for name, (dtype, shape, k, value) in meta["tensors"].items()
        }
        if meta["scale"] > 0 and all(_is_sound(spec, k) for spec, k, _ in rows.values()):
            return rows
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(f"{path}: its table of tensors contradicts itself")


def _is_sound(spec: TensorSpec, k: Any) -> bool:
    is_shape = all(type(size) is int and size >= 0 for size in spec.shape)
    return spec.dtype in ITEM_SIZES and is_shape and type(k) is int and 1 <= k <= spec.numel < 2**63


def _check_length(header: Header, name: str, k: int, path: Path) -> None:
    """Check the table against the header, before anything is allocated by it."""
    stored = header.tensors.get(f"strength/{name}")
    if stored is None or stored.spec.shape != (k,) or stored.spec.dtype not in ("F8_E5M2", "BF16", "F32"):
        raise CheckpointError(f"{path}: tensor {quote(name)}: its strength is not {k:,} values")


@dataclass(frozen=True, eq=False)
class _Tensors:
    """The tensors of a file, each compared with its hash when it is read."""

    path: Path
    header: Header
    seal: Seal

    def read(self, name: str) -> torch.Tensor:
        stored = self.header.tensors[name]
        return from_bytes(self.seal.read_tensor(self.path, name, stored), stored.spec.dtype, stored.spec.shape)


def _read_indices(file: _Tensors, name: str, spec: TensorSpec, k: int) -> Indices:
    codings = [kind for kind in ("gaps", "bits") if f"{kind}/{name}" in file.header.tensors]
    try:
        if len(codings) > 1:
            raise ValueError("it has both gaps and bits")
        if codings == ["gaps"]:
            gaps = file.read(f"gaps/{name}").numpy()
            if gaps.dtype != np.uint16 or gaps.ndim != 1:
                raise ValueError("its gaps are no tokens")
            return decode_gaps(gaps, k, spec.numel)
        if codings == ["bits"]:
            bits = file.read(f"bits/{name}").numpy()
            if bits.dtype != np.uint8 or bits.shape != (-(-spec.numel // 8),):
                raise ValueError(f"its bits are not those of {spec.numel:,} elements")
            return decode_bits(bits, k, spec.numel)
        if k != spec.numel:
            raise ValueError("it is not said which of its elements are meant")
    except ValueError as error:
        raise CheckpointError(f"{file.path}: tensor {quote(name)}: {error}") from error
    return np.arange(k)
