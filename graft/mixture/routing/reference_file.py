"""A skill's reference as one safetensors file, of some tens of kilobytes, to lie beside its patch.

Tensors, all F32: `mean` (w,), `directions` (r, w), `variances` (r,), `probe` (w,). One metadata key, `skill_reference`:
JSON with format, rest, threshold, accept, n_held_out, and hashes as in a patch file: `content` of the tensors, `table`
of the numbers. It holds no text, and the vector of none but the probe. A file is checked before its content is used.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from graft.arguments import checked
from graft.errors import CheckpointError
from graft.files.claims import Output
from graft.files.header import Header, parse_json, quote, read_header
from graft.files.outputs import new_file
from graft.mixture.routing.reference import SkillReference, Subspace
from graft.patch.format.integrity import Seal, canonical_json, make_seal
from graft.tensors.dtypes import from_bytes

KEY = "skill_reference"
_FORMAT = 1
_NUMBERS = ("rest", "threshold", "accept", "n_held_out")


@checked
def save_reference(reference: SkillReference, path: Output, *, force: bool = False) -> None:
    """Write the file; the same reference gives the same bytes.

    Raises:
        OutputError: it exists and `force` is off, or the disk refuses.
    """
    from safetensors.torch import save_file

    density = reference.subspace
    tensors = {"mean": density.mean, "directions": density.directions, "variances": density.variances}
    tensors = {name: tensor.contiguous() for name, tensor in {**tensors, "probe": reference.probe}.items()}
    meta: dict[str, Any] = {"format": _FORMAT, "rest": density.rest, "threshold": reference.threshold}
    meta |= {"accept": reference.accept, "n_held_out": reference.n_held_out}
    meta |= make_seal(tensors, _sealed(meta))
    with new_file(path, force=force) as temporary:
        save_file(tensors, temporary, metadata={KEY: canonical_json(meta)})


@checked
def load_reference(path: Path) -> SkillReference:
    """Read and check the file.

    Raises:
        CheckpointError: missing, cut short, not such a file, or one that contradicts itself or its hashes; the fact is
            named.
    """
    header = read_header(path)
    meta = parse_json(header.metadata.get(KEY, "{}"), str(path))
    if meta.get("format") != _FORMAT or not all(_is_number(meta.get(name)) for name in _NUMBERS):
        raise CheckpointError(f"{path}: not a skill's reference of format {_FORMAT}")
    if not (meta["rest"] > 0 and 0 < meta["accept"] < 1 and type(meta["n_held_out"]) is int and meta["n_held_out"] > 0):
        raise CheckpointError(f"{path}: its numbers are out of range")
    _check_shapes(header, path)
    seal = Seal.read(meta, _sealed(meta), header.tensors, str(path))
    if seal.content is None:
        raise CheckpointError(f"{path}: it lacks the hashes of its content")
    parts = {
        name: from_bytes(seal.read_tensor(path, name, stored), "F32", stored.spec.shape)
        for name, stored in header.tensors.items()
    }
    for name, tensor in parts.items():
        if not bool(tensor.isfinite().all()) or (name == "variances" and not bool((tensor > 0).all())):
            raise CheckpointError(f"{path}: tensor {quote(name)}: a value is not finite, or not above 0")
    subspace = Subspace(parts["mean"], parts["directions"], parts["variances"], float(meta["rest"]))
    return SkillReference(subspace, float(meta["threshold"]), meta["accept"], meta["n_held_out"], parts["probe"])


def _check_shapes(header: Header, path: Path) -> None:
    """Check names, dtypes and shapes before anything is allocated by them."""
    shapes = {name: stored.spec.shape for name, stored in header.tensors.items()}
    if all(stored.spec.dtype == "F32" for stored in header.tensors.values()) and len(shapes.get("directions", ())) == 2:
        r, width = shapes["directions"]
        expected = {"mean": (width,), "directions": (r, width), "variances": (r,), "probe": (width,)}
        if r < width and shapes == expected:
            return
    raise CheckpointError(f"{path}: its tensors are not those of a skill's reference")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _sealed(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: meta[name] for name in _NUMBERS}
