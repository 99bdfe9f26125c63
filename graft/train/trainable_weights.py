"""The weights of a model in training that its base checkpoint holds too."""

from __future__ import annotations

import torch

from graft.patch.live import LiveTarget
from graft.tensors.live_weight import LiveWeight, find_owners


def match_trainable(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, LiveWeight]:
    """Match checkpoint names to the live weights that take gradients: checkpoint name -> live weight.

    Weights that the checkpoint lacks, such as a new head, are left out.

    Raises:
        CheckpointError, MismatchError: as `LiveTarget.match`.
    """
    return find_owners(model, find_trainable(model, names))


def find_trainable(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Match them to live tensors, parameters and parts of one: checkpoint name -> tensor; errors as above."""
    target = LiveTarget(model)
    return {listed: target.tensors[name] for name, listed in target.match_trained(names).items()}
