"""Summary of a patch in plain numbers: the content of `graft inspect`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import spec_of
from graft.tensors.scope import layer_of


@dataclass(frozen=True)
class Sizes:
    """Sizes of a patch file, beside the least that any code could take.

    Attributes:
        bytes: size of the whole file.
        dense_bytes: of these, whole tensors; base_bytes: of these, stored base values.
        bound_bytes: (log2 C(N, k) + bits of the values) / 8, the entropy of a uniform mask plus raw values.
        bound_ratio: (bytes - dense_bytes - base_bytes) / bound_bytes.
    """

    bytes: int
    dense_bytes: int
    base_bytes: int
    bound_bytes: float

    @property
    def bound_ratio(self) -> float:
        """File size without whole tensors and base values, over the bound."""
        return (self.bytes - self.dense_bytes - self.base_bytes) / self.bound_bytes


def measure_sizes(patch: Patch, n_bytes: int) -> Sizes:
    """Compare a patch file's size with the entropy bound."""
    return _measure(outline_of(patch, patch.provenance), n_bytes)


def log2_choose(n: int, k: int) -> float:
    """Return log2 of the binomial coefficient C(n, k): the bits that name one of all masks of k entries."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def entries_by_layer(mask: Mask) -> dict[str, dict[str, int]]:
    """Return entries per numbered block and, within it, per module: {layer: {module: k}}."""
    return _by_layer({name: len(mask[name]) for name in mask})


def natural_key(text: str) -> list[Any]:
    """Return a sort key in which layer.10 follows layer.9."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in text.split(".")]


@dataclass(frozen=True)
class Outline:
    """An outline of a patch, as its header alone gives it: enough to describe it.

    Attributes:
        kind: "patch" or "mask".
        entries: tensor name -> (dtype and shape of the tensor, k).
        dense: name -> dtype and shape, of whole tensors.
        has_base_values: whether the base's values are stored too.
        provenance: where it came from.
    """

    kind: str
    entries: Mapping[str, tuple[TensorSpec, int]]
    dense: Mapping[str, TensorSpec]
    has_base_values: bool
    provenance: Provenance

    @property
    def k(self) -> int:
        """Number of entries of parameters."""
        return sum(k for name, (_, k) in self.entries.items() if name not in self.provenance.buffers)

    @property
    def buffers(self) -> dict[str, int]:
        """Buffer -> entries, which count in no density."""
        return {name: self.entries[name][1] for name in self.provenance.buffers if name in self.entries}

    @property
    def n_entries(self) -> int:
        """Number of entries, those of buffers too."""
        return self.k + sum(self.buffers.values())


def outline_of(patch: Patch | Mask, provenance: Provenance) -> Outline:
    """Return the outline of a patch or mask in memory."""
    mask = patch.mask if isinstance(patch, Patch) else patch
    entries = {name: (mask.specs[name], len(mask[name])) for name in mask}
    if not isinstance(patch, Patch):
        return Outline("mask", entries, {}, False, provenance)
    dense = {name: spec_of(tensor) for name, tensor in patch.dense.items()}
    return Outline("patch", entries, dense, patch.base_values is not None, provenance)


def describe_patch(patch: Patch | Mask, n_bytes: int, provenance: Provenance) -> dict[str, Any]:
    """Return plain values for `graft inspect --json`: counts, densities, sizes, provenance."""
    return describe_outline(outline_of(patch, provenance), n_bytes)


def describe_outline(outline: Outline, n_bytes: int) -> dict[str, Any]:
    """Describe a patch as `describe_patch` does, from the header alone; `n_bytes` is the size of the whole file."""
    provenance, k = outline.provenance, outline.k
    n, maskable = provenance.base.n_parameters, provenance.n_maskable
    by_layer = _by_layer({name: k for name, (_, k) in outline.entries.items()})
    result: dict[str, Any] = {
        "kind": outline.kind,
        "k": k,
        "n_parameters": n,
        "n_maskable": maskable,
        "density": k / n if n else None,
        "density_maskable": k / maskable if maskable else None,
        "bytes": n_bytes,
        **({"buffers": outline.buffers} if outline.buffers else {}),
        "layers": {layer: sum(modules.values()) for layer, modules in by_layer.items()},
    }
    if outline.kind == "patch":
        result |= _sizes_of(outline, n_bytes) | {"values": provenance.values}
    return result | _without_counts(provenance.to_json())


def _sizes_of(outline: Outline, n_bytes: int) -> dict[str, Any]:
    sizes = _measure(outline, n_bytes)
    return {
        "bytes_per_entry": (n_bytes - sizes.dense_bytes - sizes.base_bytes) / outline.n_entries,
        "bound_bytes": round(sizes.bound_bytes),
        "bound_ratio": sizes.bound_ratio,
        "dense": {name: list(spec.shape) for name, spec in outline.dense.items()},
        "dense_bytes": sizes.dense_bytes,
        "has_base_values": outline.has_base_values,
    }


def _measure(outline: Outline, n_bytes: int) -> Sizes:
    value_bytes = sum(k * ITEM_SIZES[spec.dtype] for spec, k in outline.entries.values())
    dense = sum(spec.n_bytes for spec in outline.dense.values())
    k = outline.n_entries
    bits = log2_choose(max(outline.provenance.base.n_parameters, k), k)
    return Sizes(n_bytes, dense, value_bytes if outline.has_base_values else 0, bits / 8 + value_bytes)


def _by_layer(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for name, k in counts.items():
        layer = layer_of(name)
        module = name.removeprefix(f"{layer}.")
        row = table.setdefault(layer, {})
        row[module] = row.get(module, 0) + k
    return dict(sorted(table.items(), key=lambda item: natural_key(item[0])))


def _without_counts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key not in ("n_maskable", "buffers")}
