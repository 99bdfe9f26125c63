"""SHiRA adapters of PEFT (`peft.tuners.shira`; Bhardwaj et al., arXiv 2406.13175): sparse differences of linear layers.

A layer of m x n weights holds exactly r * (m + n) differences, r being one number for the whole adapter, so that a
mask of fewer entries is padded. The padding is -0.0, since x + -0.0 has x's bits for every x, -0.0 included. PEFT
keeps the differences in float32 and adds them to the weight in float32, whatever the weight's dtype (its default;
float64 in a float64 layer), so that in bf16 and fp16 the graft is bitwise the patch's, but for values that shrink
65,536-fold or more (in fp16 8,192-fold) or turn to -0.0; in float32 more entries are out of reach
(`additive.find_difference`). Those values are counted before the first write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from graft.files.tensor_spec import TensorSpec
from graft.interop.export_source import ExportSource
from graft.interop.linear_layers import match_linear_layers
from graft.sources.adapters.additive import difference_dtype, find_difference
from graft.sources.adapters.peft_adapter import CONFIG, PREFIX, WEIGHTS
from graft.sources.adapters.shira import INDICES, VALUES
from graft.tensors.dtypes import DTYPE_NAMES, TORCH_DTYPES
from graft.tensors.tensor_stream import Planned, write_tensors

_ADDABLE = ("F32", "BF16", "F16", "F64")


@dataclass(frozen=True)
class _Bounds:
    """Bounds that a layer sets to the adapter's r: `least` by its entries, `most` by its size."""

    least: int
    most: int


def find_unsupported(source: ExportSource) -> dict[str, str]:
    """Return the tensors that SHiRA cannot hold, each with the reason."""
    modules = match_linear_layers(source)
    unsupported: dict[str, str] = dict.fromkeys(source.patch.dense, "a whole tensor; SHiRA holds differences alone")
    bounds = {}
    for name, spec in source.patch.mask.specs.items():
        if spec.dtype not in _ADDABLE:
            unsupported[name] = f"{spec.dtype}; SHiRA adds {', '.join(_ADDABLE)}"
        elif name not in modules:
            unsupported[name] = "not the weight of a linear layer of its own"
        else:
            bounds[name] = _bounds(len(source.patch.mask[name]), spec)
    for name in [name for name, limit in bounds.items() if limit.least > limit.most]:
        unsupported[name] = "has fewer places for SHiRA's r * (rows + columns) than the patch has entries"
        del bounds[name]
    r = max((limit.least for limit in bounds.values()), default=1)
    small = {name for name, limit in bounds.items() if limit.most < r}
    return unsupported | dict.fromkeys(small, f"too small for r = {r}, which other layers need and all must share")


def write_shira(source: ExportSource, folder: Path) -> None:
    """Write the adapter into an empty folder, one layer in memory at a time."""
    modules, specs = match_linear_layers(source), source.patch.mask.specs
    r = max(_bounds(len(source.patch.mask[name]), spec).least for name, spec in specs.items())
    tensors: dict[str, Planned] = {}
    for name, spec in specs.items():
        n_slots = r * sum(spec.shape)
        key, dtype = f"{PREFIX}{modules[name]}", DTYPE_NAMES[difference_dtype(TORCH_DTYPES[spec.dtype])]
        tensors[f"{key}.{VALUES}"] = Planned(TensorSpec(dtype, (n_slots,)), partial(_pad_values, source, name, n_slots))
        tensors[f"{key}.{INDICES}"] = Planned(
            TensorSpec("I32", (2, n_slots)), partial(_rows_and_columns, source, name, n_slots)
        )
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    config = _config(r, sorted(modules[name] for name in specs), source.patch.provenance.base.id)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _bounds(k: int, spec: TensorSpec) -> _Bounds:
    rows, columns = spec.shape
    return _Bounds(-(-k // (rows + columns)), rows * columns // (rows + columns))


def _pad_indices(indices: np.ndarray, n_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad the mask's k flat indices to n_slots >= k ascending ones; return these, and the positions of the mask's own.

    Among the first n_slots indices of the tensor at least n_slots - k are free, which is enough. For the mask 1, 4 and
    four slots, 0 and 2 are added: slots 0, 1, 2, 4, of which the mask has positions 1 and 3.
    """
    free = np.setdiff1d(np.arange(n_slots), indices, assume_unique=True)[: n_slots - indices.size]
    slots = np.union1d(indices, free)
    return slots, np.searchsorted(slots, indices)


def _pad_values(source: ExportSource, name: str, n_slots: int) -> torch.Tensor:
    difference, _ = find_difference(source.base_values(name), source.patch.values[name])
    _, positions = _pad_indices(source.patch.mask[name], n_slots)
    values = torch.full((n_slots,), -0.0, dtype=difference.dtype)
    return values.index_copy_(0, torch.from_numpy(positions), difference)


def _rows_and_columns(source: ExportSource, name: str, n_slots: int) -> torch.Tensor:
    slots, _ = _pad_indices(source.patch.mask[name], n_slots)
    columns = source.patch.mask.specs[name].shape[1]
    return torch.from_numpy(np.stack(np.divmod(slots, columns))).to(torch.int32)


def _config(r: int, modules: list[str], base_id: str | None) -> Mapping[str, object]:
    """Return the config by which PEFT makes room for the values; its random mask is overwritten on loading."""
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
