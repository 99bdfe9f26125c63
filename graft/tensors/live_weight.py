"""A checkpoint's tensor in a live model: a parameter, or a view of one that packs several, with its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graft.tensors.packed import Part
from graft.tensors.pieces import is_distributed


@dataclass(frozen=True, eq=False)
class LiveWeight:
    """A tensor that takes gradients by way of the parameter that it lies in.

    Attributes:
        owner: the parameter.
        part: where in it the tensor lies; None for all of it.
    """

    owner: torch.Tensor
    part: Part | None = None

    @property
    def place(self) -> tuple[object, ...]:
        """What two names for the same weight have in common."""
        part = self.part
        return (id(self.owner), *((part.shape, part.strides, part.offset) if part else ()))

    @property
    def values(self) -> torch.Tensor:
        """The tensor, sharing the model's memory, without a history."""
        return self.of(self.owner.detach())

    @property
    def grad(self) -> torch.Tensor | None:
        """Its gradient, a view of the parameter's; None where there is none."""
        return None if self.owner.grad is None else self.of(self.owner.grad)

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The same part of a tensor of the parameter's shape, such as a moment of the optimizer."""
        return whole if self.part is None else self.part.of(whole)


def find_owners(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, LiveWeight]:
    """The parameter that each of some tensors is, or is a view of."""
    parameters = list(model.parameters())
    themselves = {id(parameter): parameter for parameter in parameters}
    by_storage = {_storage_of(parameter): parameter for parameter in parameters if not is_distributed(parameter)}
    found = {}
    for name, tensor in tensors.items():
        if id(tensor) in themselves or is_distributed(tensor):
            found[name] = LiveWeight(tensor)
            continue
        owner = by_storage[_storage_of(tensor)]
        if (tensor.shape, tensor.stride()) == (owner.shape, owner.stride()):
            found[name] = LiveWeight(owner)
        else:
            start = tensor.storage_offset() - owner.storage_offset()
            found[name] = LiveWeight(owner, Part(name, tuple(tensor.shape), tensor.stride(), int(start)))
    return found


def group_by_owner(weights: Mapping[str, LiveWeight]) -> list[tuple[torch.Tensor, dict[str, LiveWeight]]]:
    """Each parameter once, with the tensors that lie in it."""
    groups: dict[int, tuple[torch.Tensor, dict[str, LiveWeight]]] = {}
    for name, weight in weights.items():
        groups.setdefault(id(weight.owner), (weight.owner, {}))[1][name] = weight
    return list(groups.values())


def _storage_of(tensor: torch.Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()
