"""Protection by training a compact vector of the few free entries of a tensor: the optimizer sees nothing else.

Within `Optimizer.step` the (n - k,) free entries stand in the tensor's place, with their gradients and their state;
outside of it everything is as if the optimizer held the tensor, so that clipping, gradient scaling, learning rate
schedules and `state_dict` go on as ever. Its state has the free entries' size alone. That needs an optimizer that
treats every entry by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graft.errors import ProtectionError
from graft.tensors.dtypes import as_bits, assign, take
from graft.tensors.pieces import local_of
from graft.tensors.prints import print_of
from graft.train.protection.region import Region

_ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer of torch moves each entry by its own gradients alone; subclasses are not trusted to."""
    return any(type(optimizer) is getattr(torch.optim, name) for name in _ELEMENTWISE)


class Compact:
    """One tensor of which only the free entries are optimised.

    Attributes:
        region: its protected coordinates.
        free: (n - k,) int64, the others; of the piece here where the tensor is in pieces.
        vector: (n - k,) what the optimizer moves in the tensor's place.
    """

    way = "compact"

    def __init__(self, region: Region) -> None:
        self.region = region
        self.free = region.free()
        self.vector = torch.nn.Parameter(take(region.local, self.free))
        self._print = self._print_of_protected()
        self._loaded = False

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.free.nbytes + self.vector.nbytes

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that clipping does not see them."""
        gradient = local_of(gradient)
        kept = take(gradient, self.free)
        gradient.zero_()
        assign(gradient, self.free, kept)

    def load(self, state: dict[Any, dict[str, Any]]) -> None:
        """Take values, gradients and the optimizer's state over from the tensor."""
        tensor, vector = self.region.tensor, self.vector
        if tensor.grad is not None and tensor.grad.layout != torch.strided:
            raise ProtectionError(
                f"tensor {self.region.name!r}: its gradients are sparse, of which no entries can be taken: "
                "protect it with how='restore'"
            )
        vector.data = take(tensor, self.free)
        self._loaded = True
        vector.grad = None if tensor.grad is None else take(tensor.grad, self.free)
        if tensor in state:
            state[vector] = {key: self._gather(value) for key, value in state[tensor].items()}
            del state[tensor]

    def unload(self, state: dict[Any, dict[str, Any]]) -> None:
        """Give them back, where they were taken: a step may break off anywhere."""
        if not self._loaded:
            return
        assign(self.region.tensor, self.free, self.vector.detach())
        self.vector.grad = None
        if self.vector in state:
            state[self.region.tensor] = state.pop(self.vector)
        self._loaded = False

    def spread(self, state: dict[Any, dict[str, Any]]) -> None:
        """Give the optimizer's state the tensor's own size again, 0 at the protected entries."""
        if held := state.get(self.region.tensor):
            held.update({key: self._scatter(value) for key, value in held.items()})

    def moved(self) -> int:
        """k if any protected entry does not hold the bits it held, else 0: only their print is kept."""
        return 0 if self._print_of_protected() == self._print else self.region.k

    def _gather(self, value: Any) -> Any:
        """The free entries of a state that was made for the whole tensor."""
        whole = isinstance(value, torch.Tensor) and value.shape == self.region.tensor.shape
        return take(value, self.free) if whole and value.shape != self.vector.shape else value

    def _scatter(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape != self.vector.shape:
            return value
        whole = torch.zeros(self.region.tensor.shape, dtype=value.dtype, device=value.device)
        assign(whole, self.free, value)
        return whole

    def _print_of_protected(self) -> str:
        bits = as_bits(self.region.local).clone()
        assign(bits, self.free, torch.zeros_like(self.free, dtype=bits.dtype))
        return print_of(bits)


class Exchange:
    """Puts the compact vectors in the place of their tensors for the time of a step."""

    def __init__(self, parts: Sequence[Compact]) -> None:
        self.parts = {id(part.region.tensor): part for part in parts}
        self._held: list[list[torch.Tensor]] | None = None

    def enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a step. Tensors without a free entry are left out of it."""
        self.leave(optimizer)  # a step that raised did not
        self._held = [group["params"] for group in optimizer.param_groups]
        for part in self.parts.values():
            part.load(optimizer.state)
        for group in optimizer.param_groups:
            seen = (self._stand_in(weight) for weight in group["params"])
            group["params"] = [weight for weight in seen if weight.numel()]

    def leave(self, optimizer: torch.optim.Optimizer) -> None:
        """After it, or after a part of it; where it broke off, once more."""
        if self._held is None:
            return
        for group, held in zip(optimizer.param_groups, self._held, strict=True):
            group["params"] = held
        for part in self.parts.values():
            part.unload(optimizer.state)
        self._held = None

    def spread(self, optimizer: torch.optim.Optimizer) -> None:
        """Once the exchange has ended for good."""
        for part in self.parts.values():
            part.spread(optimizer.state)

    def _stand_in(self, weight: torch.Tensor) -> torch.Tensor:
        part = self.parts.get(id(weight))
        return weight if part is None else part.vector
