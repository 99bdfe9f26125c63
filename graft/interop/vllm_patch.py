"""Checkpoint weight patches of vLLM: per tensor its name, shape, dtype, flat indices and absolute values.

vLLM (`vllm.model_executor.model_loader.checkpoint_weight_patch`, read in its source, not run here) takes such patches
in memory and prescribes no file. This one is therefore in its style: a safetensors file with `indices/NAME` (k,) I32,
I64 from 2^31 elements on, and `values/NAME` (k,) in the checkpoint's dtype, and a metadata key
`checkpoint_weight_patch` with [[name, shape, dtype], ...]; a whole tensor has values alone.
`read_weight_patches` gives the fields in vLLM's order:

    from vllm.model_executor.model_loader.checkpoint_weight_patch import CheckpointWeightPatch
    from vllm.model_executor.model_loader.checkpoint_weight_patch import load_checkpoint_weight_patches
    patches = [CheckpointWeightPatch(*patch) for patch in read_weight_patches(path)]
    load_checkpoint_weight_patches(model, patches)  # sparse ones and whole ones in two calls
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from graft.errors import CheckpointError
from graft.files.header import parse_json, read_header
from graft.files.tensor_spec import TensorSpec
from graft.interop.export_source import ExportSource
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.tensor_stream import Planned, plan_tensor, write_tensors

KEY = "checkpoint_weight_patch"
MANY = 2**31  # elements from which 32-bit indices wrap


class WeightPatch(NamedTuple):
    """Fields of vLLM's `CheckpointWeightPatch`, in its order."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: torch.Tensor  # (k,), or the whole tensor flat
    indices: torch.Tensor | None  # (k,) int32 or int64; None for a whole tensor


def find_unsupported(source: ExportSource) -> dict[str, str]:
    """Return the tensors that vLLM cannot take, each with the reason; its mark of unchanged entries is NaN."""
    specs = source.patch.mask.specs
    integers = {name: spec.dtype for name, spec in specs.items() if not spec.is_float}
    unsupported = {name: f"{dtype} entries; vLLM patches floating-point tensors" for name, dtype in integers.items()}
    return unsupported | dict.fromkeys(source.patch.provenance.grown, "new rows; in vLLM shapes stay")


def write_weight_patches(source: ExportSource, path: Path) -> None:
    """Write the file described above."""
    tensors: dict[str, Planned] = {}
    rows = []
    for name, indices in source.patch.mask.indices.items():
        spec = source.patch.mask.specs[name]
        width = "I32" if spec.numel < MANY else "I64"
        tensors[f"indices/{name}"] = Planned(TensorSpec(width, indices.shape), partial(_to_index_dtype, indices, width))
        tensors[f"values/{name}"] = plan_tensor(source.patch.values[name])
        rows.append([name, list(spec.shape), spec.dtype])
    for name, tensor in source.patch.dense.items():
        planned = plan_tensor(tensor.flatten())
        tensors[f"values/{name}"] = planned
        rows.append([name, list(tensor.shape), planned.spec.dtype])
    write_tensors(path, tensors, {KEY: json.dumps(rows, separators=(",", ":"), ensure_ascii=False)})


def read_weight_patches(path: Path | str) -> Iterator[WeightPatch]:
    """Yield the patches of a file, one tensor in memory at a time.

    Raises:
        CheckpointError: not such a file.
    """
    path = Path(path)
    text = read_header(path).metadata.get(KEY)
    if text is None:
        raise CheckpointError(f"{path}: not a file of checkpoint weight patches (no {KEY!r} in its header)")
    stored = Checkpoint.open(path)
    rows = parse_json(f'{{"rows":{text}}}', str(path)).get("rows")
    if not isinstance(rows, list):
        raise CheckpointError(f"{path}: its list of tensors is none")
    try:
        for name, shape, dtype in rows:
            indices = stored.read(f"indices/{name}") if f"indices/{name}" in stored.stored else None
            yield WeightPatch(name, tuple(shape), TORCH_DTYPES[dtype], stored.read(f"values/{name}"), indices)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: its list of tensors is not [[name, shape, dtype], ...]") from error


def _to_index_dtype(indices: np.ndarray, width: str) -> torch.Tensor:
    return torch.tensor(indices).to(TORCH_DTYPES[width])
