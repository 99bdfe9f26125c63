"""Write a patch or mask: one safetensors file, the same bytes for the same content; of format 2 where it has lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from graft.arguments import checked
from graft.errors import PatchError
from graft.files.claims import Output
from graft.files.outputs import new_file
from graft.patch.format.declaration import FORMAT, FORMAT_OF_LINES, KEY
from graft.patch.format.integrity import canonical_json, make_seal
from graft.patch.format.lines import LINE_CODES, encode_entries
from graft.patch.format.tensor_table import TensorRow
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import DTYPE_NAMES
from graft.tensors.hashing import hash_values


@checked
def save_patch(patch: Patch | Mask, path: Output, *, provenance: Provenance | None = None, force: bool = False) -> None:
    """Save a patch, or a mask alone; the same content gives the same bytes.

    The file is of format 2 where it was made of whole rows or columns (`graft.patch.format.lines`), else of format 1.

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
    """Return the bytes that `save_patch` writes."""
    from safetensors.torch import save

    mask = patch.mask if isinstance(patch, Patch) else patch
    provenance = patch.provenance if isinstance(patch, Patch) else replace(provenance or Provenance(), grown={})
    rows, tensors = _encode_mask(mask, patch if isinstance(patch, Patch) else None, by_line=provenance.has_lines)
    if isinstance(patch, Patch):
        tensors |= _join("values", rows, patch.values)
        tensors |= _join("base", rows, patch.base_values or {})
        tensors |= {f"dense/{name}": tensor.contiguous() for name, tensor in patch.dense.items() if tensor.numel()}
    meta = _metadata("patch" if isinstance(patch, Patch) else "mask", rows, tensors, provenance)
    return bytes(save(tensors, metadata={KEY: meta}))


def _encode_mask(mask: Mask, patch: Patch | None, *, by_line: bool) -> tuple[list[TensorRow], dict[str, torch.Tensor]]:
    rows: list[TensorRow] = []
    parts: dict[str, list[torch.Tensor]] = {"gaps": [], "bits": []}
    for name, indices in mask.indices.items():
        spec = mask.specs[name]
        coded = encode_entries(indices, spec, by_line=by_line)
        hashes = (patch.base_hashes[name], hash_values(patch.values[name])) if patch else (None, None)
        rows.append(TensorRow(name, spec.dtype, spec.shape, coded.code, indices.size, coded.gaps.size, *hashes))
        parts["gaps"].append(torch.from_numpy(coded.gaps))
        parts["bits"].append(torch.from_numpy(coded.bits))
    joined = {key: torch.cat(arrays) for key, arrays in parts.items()}
    return rows, {key: tensor for key, tensor in joined.items() if tensor.numel()}


def _join(key: str, rows: list[TensorRow], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    by_dtype: dict[str, list[torch.Tensor]] = {}
    for row in rows:
        if row.name in values:
            by_dtype.setdefault(DTYPE_NAMES[values[row.name].dtype], []).append(values[row.name].cpu())
    return {f"{key}.{dtype}": torch.cat(parts) for dtype, parts in by_dtype.items()}


def _metadata(kind: str, rows: list[TensorRow], tensors: Mapping[str, torch.Tensor], provenance: Provenance) -> str:
    k = sum(row.k for row in rows if row.name not in provenance.buffers)
    n, maskable = provenance.base.n_parameters, provenance.n_maskable
    table = [row.to_json() for row in rows]
    meta = {
        **provenance.to_json(),
        "format": FORMAT_OF_LINES if any(row.code in LINE_CODES for row in rows) else FORMAT,
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
