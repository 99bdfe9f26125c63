"""Protection by training a compact vector of the few free entries of a tensor: the optimizer sees nothing else.

Of the five entries [p q r s t] of a tensor, with p, r and s protected:

    free      [1 4]
    vector    [q t]     a parameter of two entries, with a gradient and an optimizer state of two
    a step    [q' t']   written back: [p q' r s t']

Within `Optimizer.step` the (n - k,) free entries stand in the tensor's place, with their gradients and their state;
outside of it everything is as if the optimizer held the tensor, so that clipping, gradient scaling, learning rate
schedules and `state_dict` go on as ever. Its state has the free entries' size alone. That needs an optimizer that
treats every entry by itself.

To put the protected entries back after a step (`restored.py`) takes the values of these and a full state, 2 numbers per
weight for Adam. This takes indices, values and state of the free ones, and so pays where few are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graft.errors import ProtectionError
from graft.tensors.dtypes import as_bits, assign, take
from graft.tensors.hashing import hash_values
from graft.tensors.shards import local_of
from graft.train.protection.region import Region

_ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer is one of torch's that move each entry by its own gradients alone."""
    return any(type(optimizer) is getattr(torch.optim, name) for name in _ELEMENTWISE)


class Compact:
    """One tensor of which only the free entries are optimised.

    Attributes:
        region: its protected coordinates.
        free: (n - k,) int64, the others; of the shard here where the tensor is sharded.
        vector: (n - k,) what the optimizer moves in the tensor's place.
    """

    way = "compact"

    def __init__(self, region: Region) -> None:
        self.region = region
        self.free = region.free()
        self.vector = torch.nn.Parameter(take(region.local, self.free))
        self._hash = self._hash_of_protected()
        self._loaded = False

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.free.nbytes + self.vector.nbytes

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that clipping does not see them."""
        gradient = local_of(gradient)
        # the free ones are few: to take them out, clear all and put them back needs no index of the others
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
        vector.data = take(tensor, self.free)  # anew at each step: others may have written to the tensor since
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
        """Return k if any protected entry does not hold the bits it held, else 0: only their hash is kept."""
        return 0 if self._hash_of_protected() == self._hash else self.region.k

    def _gather(self, value: Any) -> Any:
        """Return the free entries of a state that was made for the whole tensor."""
        # a state loaded from a file may be of the tensor's shape; one of the vector's, or a count of steps, is as it is
        whole = isinstance(value, torch.Tensor) and value.shape == self.region.tensor.shape
        return take(value, self.free) if whole and value.shape != self.vector.shape else value

    def _scatter(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape != self.vector.shape:
            return value
        whole = torch.zeros(self.region.tensor.shape, dtype=value.dtype, device=value.device)
        assign(whole, self.free, value)
        return whole

    def _hash_of_protected(self) -> str:
        # the bits with the free entries cleared: one hash, in place of a list of the many protected ones
        bits = as_bits(self.region.local).clone()
        assign(bits, self.free, torch.zeros_like(self.free, dtype=bits.dtype))
        return hash_values(bits)


class Exchange:
    """Puts the compact vectors in the place of their tensors for the time of a step."""

    def __init__(self, parts: Sequence[Compact]) -> None:
        self.parts = {id(part.region.tensor): part for part in parts}
        self._held: list[list[torch.Tensor]] | None = None

    def enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Enter a step. Tensors without a free entry are left out of it."""
        self.leave(optimizer)  # a step that raised did not
        self._held = [group["params"] for group in optimizer.param_groups]
        for part in self.parts.values():
            part.load(optimizer.state)
        for group in optimizer.param_groups:
            seen = (self._stand_in(weight) for weight in group["params"])
            group["params"] = [weight for weight in seen if weight.numel()]

    def leave(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave a step, or a part of it; where it broke off, once more."""
        if self._held is None:
            return
        for group, held in zip(optimizer.param_groups, self._held, strict=True):
            group["params"] = held
        for part in self.parts.values():
            part.unload(optimizer.state)
        self._held = None

    def spread(self, optimizer: torch.optim.Optimizer) -> None:
        """Spread the optimizer's state once the exchange has ended for good."""
        for part in self.parts.values():
            part.spread(optimizer.state)

    def _stand_in(self, weight: torch.Tensor) -> torch.Tensor:
        part = self.parts.get(id(weight))
        return weight if part is None else part.vector
