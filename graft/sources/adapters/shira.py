"""SHiRA adapters of PEFT (Bhardwaj et al., arXiv 2406.13175), merged against their base as PEFT merges them.

Each layer holds values at places of its weight, which are added in float32 (float64 in a float64 layer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from graft.errors import CheckpointError
from graft.sources.adapters.additive import add_difference
from graft.sources.adapters.imported_weights import ImportedWeights
from graft.sources.adapters.peft_adapter import Adapter, read_others
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import assign, take

VALUES, INDICES = "shira_weight", "shira_indices"
Reader = Callable[[], torch.Tensor]


def read_shira(adapter: Adapter, base: Checkpoint) -> ImportedWeights:
    """Read an adapter that PEFT saved, or `graft export`.

    Raises:
        CheckpointError: it contradicts itself.
    """
    layers = adapter.groups((VALUES, INDICES))
    used = {key for layer in layers.values() for key in layer.values()}
    others = {name: key for name, key in adapter.keys.items() if key not in used}
    edits = {}
    for module, keys in layers.items():
        if len(keys) != 2:
            raise CheckpointError(f"{adapter.where}: {module!r} has values or indices, not both")
        read = {ending: partial(adapter.stored.read, key) for ending, key in keys.items()}
        edits[f"{module}.weight"] = partial(_add_sparse, f"{module}.weight", read)
    more = read_others(adapter, others)
    return ImportedWeights({**more.edits, **edits}, more.whole, {"r": adapter.config.get("r")}, frozenset(more.whole))


def _add_sparse(name: str, read: Mapping[str, Reader], base: torch.Tensor) -> torch.Tensor:
    values, coordinates = read[VALUES](), read[INDICES]()
    flat = _flat_indices(name, values, coordinates, tuple(base.shape))
    tuned = base.clone(memory_format=torch.contiguous_format)
    assign(tuned, flat, add_difference(take(base, flat), values))
    return tuned


def _flat_indices(name: str, values: torch.Tensor, coordinates: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Turn (2, k) rows and columns into (k,) flat indices; PEFT stores them as floats on Windows."""
    if len(shape) != 2 or values.ndim != 1 or not values.is_floating_point() or coordinates.shape != (2, len(values)):
        raise CheckpointError(
            f"tensor {name!r} of shape {list(shape)}: SHiRA values {list(values.shape)} at places "
            f"{list(coordinates.shape)}"
        )
    rows, columns = coordinates.long()
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    flat: torch.Tensor = rows * shape[1] + columns
    if not bool(inside.all()) or len(np.unique(flat.numpy())) != len(flat):
        raise CheckpointError(f"tensor {name!r}: a SHiRA place lies outside its shape {list(shape)} or occurs twice")
    return flat
