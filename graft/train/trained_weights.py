"""The weights of a model in training that its base checkpoint holds too."""

from __future__ import annotations

import torch

from graft.tensors.architecture import architecture_of
from graft.tensors.names import match_names


def match_trained(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Checkpoint name -> live weight, for those of the names that take gradients in the model.

    Weights that the checkpoint lacks, such as a new head, are left out.

    Raises:
        MismatchError: a name is ambiguous.
    """
    architecture = architecture_of(model)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    found = match_names(trained, names, prefix=architecture.prefix, rename=architecture.rename).found
    return {found[name]: weight for name, weight in trained.items() if name in found}
