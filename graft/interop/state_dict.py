"""State dict of the tensors that a patch touches, whole, with the tuned values in place.

One safetensors file in the base's names, shapes and dtypes: `model.load_state_dict(load_file(path), strict=False)`
grafts it onto the base. Tensors with new rows of the vocabulary include these, and need a model that was
resized (`resize_token_embeddings`). Read back, a state dict of any tool is a dense import.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from graft.files.tensor_spec import TensorSpec
from graft.interop.export_source import ExportSource
from graft.patch.growth import continue_shape
from graft.sources.adapters.imported_weights import ImportedWeights
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import assign, spec_of
from graft.tensors.tensor_stream import Planned, plan_tensor, write_tensors


def write_state_dict(source: ExportSource, path: Path) -> None:
    """Write the file described above, one tensor in memory at a time."""
    patch = source.patch
    tensors = {name: plan_tensor(tensor) for name, tensor in patch.dense.items()}
    tensors |= {name: Planned(spec, partial(_graft_tensor, source, name)) for name, spec in patch.mask.specs.items()}
    for name, growth in patch.provenance.grown.items():
        rows = spec_of(patch.dense[name])
        grown = TensorSpec(rows.dtype, continue_shape(growth, rows.shape))
        tensors[name] = Planned(grown, partial(_append_rows, source, name))
    write_tensors(path, tensors, {"format": "pt"})


def read_state_dict(path: Path) -> ImportedWeights:
    """Read the tensors of a safetensors file or model folder, each to replace the base's.

    Raises:
        CheckpointError: it cannot be read; pickles are refused.
    """
    stored = Checkpoint.open(path)
    return ImportedWeights(whole={name: partial(stored.read, name) for name in stored.names})


def _append_rows(source: ExportSource, name: str) -> torch.Tensor:
    grafted = _graft_tensor(source, name) if name in source.patch.mask else source.base_tensor(name)
    return torch.cat([grafted, source.patch.dense[name]])


def _graft_tensor(source: ExportSource, name: str) -> torch.Tensor:
    tensor = source.base_tensor(name).clone()
    assign(tensor, torch.tensor(source.patch.mask[name]), source.patch.values[name])
    return tensor
