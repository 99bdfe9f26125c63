"""What a live model takes by itself: its weights, and what a forward pass keeps for the backward pass."""

from __future__ import annotations

import torch

from graft.memory.activations import SavedActivations
from graft.memory.plan import Allocation
from graft.tasks.head import find_dtype
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES


def allocate_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> Allocation:
    """Return what the live model's weights take."""
    names = set(checkpoint.names) - checkpoint.aliases
    return Allocation("weights", sum(checkpoint.spec(name).numel for name in names) * dtype.itemsize)


def allocate_activations(saved: SavedActivations | None, *, gradient_checkpointing: bool) -> Allocation:
    """Return what a batch of the longest inputs keeps for the backward pass, unknown where that was not estimated."""
    what = "activations, longest inputs"
    if saved is None:
        return Allocation(what, None)
    return Allocation(what, saved.with_checkpointing if gradient_checkpointing else saved.total)


def live_dtype(checkpoint: Checkpoint, dtype: str) -> torch.dtype:
    """Return the dtype in which a model will be loaded: the one asked for, or its largest tensor's."""
    asked = find_dtype(dtype)
    if isinstance(asked, torch.dtype):
        return asked
    largest = max(checkpoint.parameters, key=lambda name: checkpoint.spec(name).numel)
    return TORCH_DTYPES[checkpoint.spec(largest).dtype]
