"""Task vector: dense differences tuned - base of the tensors that a patch touches (Ilharco et al., arXiv 2212.04089).

One safetensors file, tensor name -> difference in float32 (float64 for float64 tensors), -0.0 where the patch has no
entry, which alone leaves a base's -0.0 as it is. Adding it at scale 1 in that dtype and rounding to the base's gives
the grafted values, apart from the entries that no difference reaches.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from graft.files.tensor_spec import TensorSpec
from graft.interop.export_source import ExportSource
from graft.sources.adapters.additive import difference_dtype, find_difference
from graft.tensors.dtypes import DTYPE_NAMES, TORCH_DTYPES
from graft.tensors.tensor_stream import Planned, write_tensors


def find_unsupported(source: ExportSource) -> dict[str, str]:
    """Return the tensors that have no difference in floating point, each with the reason."""
    integers = {name: spec.dtype for name, spec in source.patch.mask.specs.items() if not spec.is_float}
    unsupported = {
        name: f"{dtype} entries; a task vector adds floating-point numbers" for name, dtype in integers.items()
    }
    return unsupported | dict.fromkeys(source.patch.dense, "a whole tensor; a task vector holds differences alone")


def write_task_vector(source: ExportSource, path: Path) -> None:
    """Write the file described above, one tensor in memory at a time."""
    tensors = {}
    for name, spec in source.patch.mask.specs.items():
        dtype = DTYPE_NAMES[difference_dtype(TORCH_DTYPES[spec.dtype])]
        tensors[name] = Planned(TensorSpec(dtype, spec.shape), partial(_make_dense, source, name))
    write_tensors(path, tensors, {"format": "pt"})


def _make_dense(source: ExportSource, name: str) -> torch.Tensor:
    difference, _ = find_difference(source.base_values(name), source.patch.values[name])
    spec = source.patch.mask.specs[name]
    dense = torch.full((spec.numel,), -0.0, dtype=difference.dtype)
    dense.index_copy_(0, torch.tensor(source.patch.mask[name]), difference)
    return dense.reshape(spec.shape)
