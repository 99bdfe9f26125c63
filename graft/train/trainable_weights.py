"""The weights of a model in training that its base checkpoint holds too."""

from __future__ import annotations

import torch

from graft.patch.live import LiveTarget
from graft.tensors.live_weight import LiveWeight, find_owners


def match_trainable(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, LiveWeight]:
    """Checkpoint name -> live weight, for those of the names that take gradients in the model.

    Weights that the checkpoint lacks, such as a new head, are left out.

    Raises:
        MismatchError: a name is ambiguous.
    """
    target = LiveTarget(model)
    target.match(names)  # refuses what has no place of its own
    found = target.name_map.match(target.trained, names).found
    return find_owners(model, {found[name]: target.tensors[name] for name in target.trained if name in found})
