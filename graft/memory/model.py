"""Allocations of a live model by itself: its weights, and the activations kept for the backward pass."""

from __future__ import annotations

import torch

from graft.memory.activations import SavedActivations
from graft.memory.plan import Allocation
from graft.tensors.checkpoint import Checkpoint


def allocate_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> Allocation:
    """Return the allocation of the live model's weights."""
    names = set(checkpoint.names) - checkpoint.aliases
    return Allocation("weights", sum(checkpoint.spec(name).numel for name in names) * dtype.itemsize)


def allocate_activations(saved: SavedActivations | None, *, gradient_checkpointing: bool) -> Allocation:
    """Return the allocation of activations for a batch of the longest inputs, unknown where there is no estimate."""
    label = "activations, longest inputs"
    if saved is None:
        return Allocation(label, None)
    return Allocation(label, saved.with_checkpointing if gradient_checkpointing else saved.total)
