"""Training confined to a mask: every other weight of the base keeps its bits."""

from __future__ import annotations

import torch

from graft.patch.mask import Mask
from graft.tensors.architecture import architecture_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import assign, take
from graft.tensors.names import match_names
from graft.tensors.pieces import local_of, piece_of


class Confinement:
    """Only the coordinates of a mask move, whatever the optimizer does: momentum and weight decay move others too.

    Tensors of the base without a coordinate stop requiring gradients; those that the base lacks, such as a new head,
    train as a whole. The base is read from its mapped file.

    Args:
        model: the model in training, on which `requires_grad` says what may train.
        base: its base checkpoint.
        mask: what may move, by the base's names.
    """

    def __init__(self, model: torch.nn.Module, base: Checkpoint, mask: Mask) -> None:
        architecture = architecture_of(model)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        found = match_names(trained, base.names, prefix=architecture.prefix, rename=architecture.rename).found
        self.base = base
        self._confined: list[tuple[torch.Tensor, str, torch.Tensor]] = []
        for name, weight in trained.items():
            if name in found:
                indices = torch.tensor(mask[found[name]])
                weight.requires_grad_(bool(len(indices)))
                if len(indices):
                    self._confined.append((weight, found[name], indices))

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of all other coordinates to 0, so that neither clipping nor moments see them."""
        for weight, _, indices in self._confined:
            if weight.grad is not None:
                kept = take(weight.grad, indices)
                weight.grad.zero_()
                assign(weight.grad, indices, kept)

    @torch.no_grad()
    def restore_others(self) -> None:
        """Put all other coordinates back to the base's bits."""
        for weight, name, indices in self._confined:
            moved = take(weight, indices)
            local_of(weight).copy_(piece_of(weight).cut(self.base.read(name)))
            assign(weight, indices, moved)
