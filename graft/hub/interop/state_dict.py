"""State dicts: the tensors that a patch touches, whole, with the tuned values in place.

One safetensors file in the base's names, shapes and dtypes: `model.load_state_dict(load_file(path), strict=False)`
grafts it onto the base. Read back, a state dict of any tool is a dense import.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from graft.hub.interop.export_source import ExportSource
from graft.hub.interop.foreign import Foreign
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import assign
from graft.tensors.tensor_stream import Planned, plan_tensor, write_tensors


def write_state_dict(source: ExportSource, path: Path) -> None:
    """Write the file described above, one tensor in memory at a time."""
    specs = source.patch.mask.specs
    tensors = {name: Planned(spec, partial(_grafted, source, name)) for name, spec in specs.items()}
    tensors |= {name: plan_tensor(whole) for name, whole in source.patch.dense.items() if name not in tensors}
    write_tensors(path, tensors, {"format": "pt"})


def read_state_dict(path: Path) -> Foreign:
    """The tensors of a safetensors file or model folder, each to be put in the place of the base's.

    Raises:
        CheckpointError: it cannot be read; pickles are refused.
    """
    stored = Checkpoint.open(path)
    return Foreign(whole={name: partial(stored.read, name) for name in stored.names})


def _grafted(source: ExportSource, name: str) -> torch.Tensor:
    tensor = source.whole(name).clone()
    assign(tensor, torch.tensor(source.patch.mask[name]), source.patch.values[name])
    return tensor
