"""Reading and writing format 1 (contract, section 4): one safetensors file per patch or mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from graft.arguments import checked
from graft.errors import CheckpointError, PatchError, PatchFormatError
from graft.files.claims import Output
from graft.files.header import Header, clip_text, parse_json, read_header, shown
from graft.files.outputs import new_file
from graft.patch.coding import encode_indices
from graft.patch.growth import find_contradiction
from graft.patch.integrity import Seal, canonical_json, make_seal
from graft.patch.layout import decode_mask, read_payload, split_values
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.rows import Row, read_rows
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import DTYPE_NAMES
from graft.tensors.prints import print_of

KEY = "skill_patch"
FORMAT = 1
FILE_NAME = "patch.safetensors"
MAX_PATCH_HEADER = 2**25  # bytes of rows and provenance: room for 200,000 tensors


@checked
def save_patch(patch: Patch | Mask, path: Output, *, provenance: Provenance | None = None, force: bool = False) -> None:
    """Save a patch, or a mask alone, as a format-1 file; the same content gives the same bytes.

    Args:
        patch: a Patch (kind "patch") or a Mask (kind "mask").
        path: the file to write, or a claim to it; it is written beside and moved into place.
        provenance: for a Mask; a Patch carries its own.
        force: overwrite an existing file.

    Raises:
        OutputError: the file exists and `force` is off, or the disk refuses.
    """
    data = patch_bytes(patch, provenance)
    with new_file(path, force=force) as temporary:
        temporary.write_bytes(data)


def patch_bytes(patch: Patch | Mask, provenance: Provenance | None = None) -> bytes:
    """The bytes that `save_patch` writes."""
    from safetensors.torch import save

    mask = patch.mask if isinstance(patch, Patch) else patch
    provenance = patch.provenance if isinstance(patch, Patch) else replace(provenance or Provenance(), grown={})
    rows, tensors = _encode_mask(mask, patch if isinstance(patch, Patch) else None)
    if isinstance(patch, Patch):
        tensors |= _join("values", rows, patch.values)
        tensors |= _join("base", rows, patch.base_values or {})
        tensors |= {f"dense/{name}": tensor.contiguous() for name, tensor in patch.dense.items() if tensor.numel()}
    meta = _metadata("patch" if isinstance(patch, Patch) else "mask", rows, tensors, provenance)
    return bytes(save(tensors, metadata={KEY: meta}))


@checked
def load_patch(path: Path | str) -> Patch:
    """Load and check a patch; a folder is looked into for `patch.safetensors`.

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
    file, header = read_patch_header(Path(path))
    declared = read_declaration(header, str(file))
    rows, provenance = declared.rows, declared.provenance
    payload = read_payload(file, header, rows, declared.kind, declared.seal)
    mask = decode_mask(payload, rows)
    if declared.kind == "mask":
        return mask, provenance
    values = split_values(payload, "values", rows)
    before = split_values(payload, "base", rows) if payload.has("base") else None
    _check_prints(rows, values, "result_print", payload.where)
    _check_prints(rows, before or {}, "base_print", payload.where)
    prints = {row.name: str(row.base_print) for row in rows}
    return Patch(mask, values, prints, provenance, before, payload.dense), provenance


def describe_integrity(path: Path | str) -> str:
    """Whether a file that was loaded held hashes, which then agreed, or is older than they are: for a person.

    Raises:
        PatchFormatError: as `read_declaration`.
    """
    file, header = read_patch_header(Path(path))
    return read_declaration(header, str(file)).seal.verdict


def read_patch_header(path: Path) -> tuple[Path, Header]:
    """A patch's or mask's file, which a folder may hold, and its header.

    Raises:
        PatchFormatError: missing, truncated or junk.
    """
    try:
        file = path / FILE_NAME if path.is_dir() else path
        return file, read_header(file, MAX_PATCH_HEADER)
    except (CheckpointError, OSError) as error:
        raise PatchFormatError(str(error)) from error


@dataclass(frozen=True)
class Declaration:
    """What a file declares in its header alone.

    Attributes:
        kind: "patch" or "mask".
        rows: its table of tensors, which was found to agree with its hash.
        provenance: where it came from.
        seal: the hashes of its tensors, which have not been compared yet.
    """

    kind: str
    rows: tuple[Row, ...]
    provenance: Provenance
    seal: Seal


def read_declaration(header: Header, where: str) -> Declaration:
    """Read and check what a header declares.

    Args:
        header: of a file here, or read from afar.
        where: the file's name for an error.

    Raises:
        PatchFormatError: not a patch, another format, or a table that contradicts itself or its hash.
    """
    try:
        if set(header.metadata) != {KEY}:
            raise PatchFormatError(f"{where}: not a skill patch (no {KEY!r} in its header, or more than that)")
        meta = parse_json(header.metadata[KEY], where)
    except CheckpointError as error:
        raise PatchFormatError(str(error)) from error
    kind = meta.get("kind")
    if meta.get("format") != FORMAT or type(meta["format"]) is not int:
        found = shown(meta.get("format"))
        raise PatchFormatError(f"{where}: format {found} is not known here; this reads format {FORMAT}")
    if kind not in ("patch", "mask"):
        raise PatchFormatError(f"{where}: kind {shown(kind)} is neither 'patch' nor 'mask'")
    rows = read_rows(meta.get("tensors"), kind, where)
    try:
        provenance = Provenance.from_json(meta)
    except ValueError as error:
        raise PatchFormatError(f"{where}: {error}") from error
    _check_growth(provenance, rows, header, where)
    try:
        seal = Seal.read(meta, meta["tensors"], header.tensors, where)
    except CheckpointError as error:
        raise PatchFormatError(str(error)) from error
    return Declaration(kind, rows, provenance, seal)


def _check_growth(provenance: Provenance, rows: tuple[Row, ...], header: Header, where: str) -> None:
    if provenance.grown:
        whole = {
            name.removeprefix("dense/"): item.spec for name, item in header.tensors.items() if name.startswith("dense/")
        }
        fact = find_contradiction(provenance.grown, {row.name: row.spec for row in rows}, whole)
        if fact:
            raise PatchFormatError(f"{where}: {clip_text(fact)}")


def _encode_mask(mask: Mask, patch: Patch | None) -> tuple[list[Row], dict[str, torch.Tensor]]:
    rows: list[Row] = []
    parts: dict[str, list[torch.Tensor]] = {"gaps": [], "bits": []}
    for name, indices in mask.indices.items():
        spec = mask.specs[name]
        coded = encode_indices(indices, spec.numel)
        prints = (patch.base_prints[name], print_of(patch.values[name])) if patch else (None, None)
        rows.append(Row(name, spec.dtype, spec.shape, coded.code, indices.size, coded.gaps.size, *prints))
        parts["gaps"].append(torch.from_numpy(coded.gaps))
        parts["bits"].append(torch.from_numpy(coded.bits))
    joined = {key: torch.cat(arrays) for key, arrays in parts.items()}
    return rows, {key: tensor for key, tensor in joined.items() if tensor.numel()}


def _join(key: str, rows: list[Row], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    by_dtype: dict[str, list[torch.Tensor]] = {}
    for row in rows:
        if row.name in values:
            by_dtype.setdefault(DTYPE_NAMES[values[row.name].dtype], []).append(values[row.name].cpu())
    return {f"{key}.{dtype}": torch.cat(parts) for dtype, parts in by_dtype.items()}


def _metadata(kind: str, rows: list[Row], tensors: Mapping[str, torch.Tensor], provenance: Provenance) -> str:
    k = sum(row.k for row in rows if row.name not in provenance.buffers)
    n, maskable = provenance.base.n_parameters, provenance.n_maskable
    table = [row.to_json() for row in rows]
    meta = {
        **provenance.to_json(),
        "format": FORMAT,
        "kind": kind,
        "tensors": table,
        **make_seal(tensors, table),
        "k": k,
        "density": k / n if n else None,
        "density_maskable": k / maskable if maskable else None,
    }
    try:
        return canonical_json(meta)
    except ValueError as error:
        raise PatchError(f"what the patch says of its origin cannot be stored: {error}") from error


def _check_prints(rows: tuple[Row, ...], values: Mapping[str, torch.Tensor], key: str, where: str) -> None:
    for row in rows:
        if row.name in values and print_of(values[row.name]) != getattr(row, key):
            raise PatchFormatError(f"{where}: tensor {shown(row.name)}: its values do not match its {key}")
