"""SHiRA adapters of PEFT (`peft.tuners.shira`; Bhardwaj et al., arXiv 2406.13175): sparse differences of linear layers.

A layer of m x n weights holds exactly r * (m + n) differences, r being one number for the whole adapter, so that a
mask of fewer entries is filled up. The filling is -0.0, since x + -0.0 has x's bits for every x, -0.0 included. PEFT
keeps the differences in float32 and adds them to the weight in float32, whatever the weight's dtype (its default;
float64 in a float64 layer), so that in bf16 and fp16 the graft is bitwise the patch's, but for values that shrink
65,536-fold or more (in fp16 8,192-fold) or turn to -0.0; in float32 more entries are out of reach
(`additive.find_difference`). They are counted before the first write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from graft.errors import CheckpointError
from graft.files.tensor_spec import TensorSpec
from graft.interop.additive import add_difference, find_difference, widest
from graft.interop.export_source import ExportSource
from graft.interop.imported_weights import ImportedWeights
from graft.interop.linear_layers import match_linear_layers
from graft.interop.peft_adapter import CONFIG, PREFIX, WEIGHTS, open_adapter, read_rest
from graft.tensors.dtypes import DTYPE_NAMES, TORCH_DTYPES, assign, take
from graft.tensors.tensor_stream import Planned, write_tensors

VALUES, INDICES = "shira_weight", "shira_indices"
Reader = Callable[[], torch.Tensor]
_ADDABLE = ("F32", "BF16", "F16", "F64")


@dataclass(frozen=True)
class _Need:
    """What a layer asks of the adapter's r: at least `least` for its entries, at most `most` for its size."""

    least: int
    most: int


def find_unsupported(source: ExportSource) -> dict[str, str]:
    """Tensors that SHiRA cannot hold, with the reason."""
    modules = match_linear_layers(source)
    refused: dict[str, str] = dict.fromkeys(source.patch.dense, "a whole tensor; SHiRA holds differences alone")
    needs = {}
    for name, spec in source.patch.mask.specs.items():
        if spec.dtype not in _ADDABLE:
            refused[name] = f"{spec.dtype}; SHiRA adds {', '.join(_ADDABLE)}"
        elif name not in modules:
            refused[name] = "not the weight of a linear layer of its own"
        else:
            needs[name] = _need(len(source.patch.mask[name]), spec)
    for name in [name for name, need in needs.items() if need.least > need.most]:
        refused[name] = "has fewer places for SHiRA's r * (rows + columns) than the patch has entries"
        del needs[name]
    r = max((need.least for need in needs.values()), default=1)
    small = {name for name, need in needs.items() if need.most < r}
    return refused | dict.fromkeys(small, f"too small for r = {r}, which other layers need and all must share")


def write_shira(source: ExportSource, folder: Path) -> None:
    """Write the adapter into an empty folder, one layer in memory at a time."""
    modules, specs = match_linear_layers(source), source.patch.mask.specs
    r = max(_need(len(source.patch.mask[name]), spec).least for name, spec in specs.items())
    tensors: dict[str, Planned] = {}
    for name, spec in specs.items():
        n_slots = r * sum(spec.shape)
        key, dtype = f"{PREFIX}{modules[name]}", DTYPE_NAMES[widest(TORCH_DTYPES[spec.dtype])]
        tensors[f"{key}.{VALUES}"] = Planned(TensorSpec(dtype, (n_slots,)), partial(_values, source, name, n_slots))
        tensors[f"{key}.{INDICES}"] = Planned(TensorSpec("I32", (2, n_slots)), partial(_places, source, name, n_slots))
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    config = _config(r, sorted(modules[name] for name in specs), source.patch.provenance.base.id)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_shira(path: Path) -> ImportedWeights:
    """An adapter that PEFT saved, or `write_shira`.

    Raises:
        CheckpointError: not a SHiRA adapter, or one that contradicts itself.
    """
    adapter = open_adapter(path, "SHIRA")
    layers = adapter.groups((VALUES, INDICES))
    used = {key for layer in layers.values() for key in layer.values()}
    rest = {name: key for name, key in adapter.keys.items() if key not in used}
    edits = {}
    for module, keys in layers.items():
        if len(keys) != 2:
            raise CheckpointError(f"{adapter.where}: {module!r} has values or indices, not both")
        read = {ending: partial(adapter.stored.read, key) for ending, key in keys.items()}
        edits[f"{module}.weight"] = partial(_add_sparse, f"{module}.weight", read)
    more = read_rest(adapter, rest)
    return ImportedWeights({**more.edits, **edits}, more.whole, {"r": adapter.config.get("r")}, frozenset(more.whole))


def _need(k: int, spec: TensorSpec) -> _Need:
    rows, columns = spec.shape
    return _Need(-(-k // (rows + columns)), rows * columns // (rows + columns))


def _slots(indices: np.ndarray, n_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask's (k,) indices among n_slots >= k ascending ones, and the place of each.

    Among the first n_slots indices of all at least n_slots - k are free.
    """
    free = np.setdiff1d(np.arange(n_slots), indices, assume_unique=True)[: n_slots - indices.size]
    slots = np.union1d(indices, free)
    return slots, np.searchsorted(slots, indices)


def _values(source: ExportSource, name: str, n_slots: int) -> torch.Tensor:
    difference, _ = find_difference(source.base_values(name), source.patch.values[name])
    _, own = _slots(source.patch.mask[name], n_slots)
    values = torch.full((n_slots,), -0.0, dtype=difference.dtype)
    return values.index_copy_(0, torch.from_numpy(own), difference)


def _places(source: ExportSource, name: str, n_slots: int) -> torch.Tensor:
    slots, _ = _slots(source.patch.mask[name], n_slots)
    columns = source.patch.mask.specs[name].shape[1]
    return torch.from_numpy(np.stack(np.divmod(slots, columns))).to(torch.int32)


def _config(r: int, modules: list[str], base_id: str | None) -> Mapping[str, object]:
    """What PEFT needs to make room for the values; its random mask is overwritten on loading."""
    targets = "|".join(re.escape(module) for module in modules)  # a list would also match longer names' ends
    return {
        "peft_type": "SHIRA",
        "base_model_name_or_path": base_id,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_weights": True,
        "mask_type": "random",
        "modules_to_save": None,
        "r": r,
        "random_seed": 0,
        "target_modules": f"({targets})",
        "task_type": None,
    }


def _add_sparse(name: str, read: Mapping[str, Reader], base: torch.Tensor) -> torch.Tensor:
    values, places = read[VALUES](), read[INDICES]()
    flat = _flat_places(name, values, places, tuple(base.shape))
    tuned = base.clone(memory_format=torch.contiguous_format)
    assign(tuned, flat, add_difference(take(base, flat), values))
    return tuned


def _flat_places(name: str, values: torch.Tensor, places: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(2, k) rows and columns -> (k,) flat indices; PEFT stores them as floats on Windows."""
    if len(shape) != 2 or values.ndim != 1 or not values.is_floating_point() or places.shape != (2, len(values)):
        raise CheckpointError(
            f"tensor {name!r} of shape {list(shape)}: SHiRA values {list(values.shape)} at places {list(places.shape)}"
        )
    rows, columns = places.long()
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    flat: torch.Tensor = rows * shape[1] + columns
    if not bool(inside.all()) or len(np.unique(flat.numpy())) != len(flat):
        raise CheckpointError(f"tensor {name!r}: a SHiRA place lies outside its shape {list(shape)} or occurs twice")
    return flat
