"""Protection by training a compact vector of the few free entries of a tensor: the optimizer sees nothing else.

Of the five entries [p q r s t] of a tensor, with p, r and s protected:

    free      [1 4]
    vector    [q t]     a parameter of two entries, with a gradient and an optimizer state of two
    a step    [q' t']   written back: [p q' r s t']

Within `Optimizer.step` the (n - k,) free entries stand in the tensor's place, with their gradients and their state;
outside of it the optimizer holds the tensor, so that clipping, gradient scaling, learning rate schedules and
`state_dict` work as before. The state has the size of the free entries alone. All this needs an optimizer that moves
every entry independently of the others.

Putting the protected entries back after a step (`restored.py`) takes their values and a full state, 2 numbers per
weight for Adam. Compact training takes indices, values and state of the free ones, which is less where few are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graft.errors import ProtectionError
from graft.tensors.dtypes import as_bits, assign, take
from graft.tensors.hashing import hash_values
from graft.tensors.shards import local_of
from graft.train.protection.region import ProtectedRegion

_ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer is one of torch's that move each entry by its own gradients alone."""
    return any(type(optimizer) is getattr(torch.optim, name) for name in _ELEMENTWISE)


class Compact:
    """A tensor of which only the free entries are optimized.

    Attributes:
        region: its protected coordinates.
        free: (n - k,) int64, the others; those of this process's shard where the tensor is sharded.
        vector: (n - k,) parameter that the optimizer moves in the tensor's place.
    """

    way = "compact"

    def __init__(self, region: ProtectedRegion) -> None:
        self.region = region
        self.free = region.free()
        self.vector = torch.nn.Parameter(take(region.local, self.free))
        self._hash = self._hash_of_protected()
        self._loaded = False

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.free.nbytes + self.vector.nbytes

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that clipping does not see them."""
        gradient = local_of(gradient)
        # the free ones are few: taking them out, clearing all and putting them back needs no index of the others
        free = take(gradient, self.free)
        gradient.zero_()
        assign(gradient, self.free, free)

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
        """Give them back to the tensor, if they were taken: a step may break off anywhere."""
        if not self._loaded:
            return
        assign(self.region.tensor, self.free, self.vector.detach())
        self.vector.grad = None
        if self.vector in state:
            state[self.region.tensor] = state.pop(self.vector)
        self._loaded = False

    def spread(self, state: dict[Any, dict[str, Any]]) -> None:
        """Give the optimizer's state the tensor's own size again, 0 at the protected entries."""
        if moments := state.get(self.region.tensor):
            moments.update({key: self._scatter(value) for key, value in moments.items()})

    def count_moved(self) -> int:
        """Return k if any protected entry changed its bits, else 0, since only their hash is known."""
        return 0 if self._hash_of_protected() == self._hash else self.region.k

    def _gather(self, value: Any) -> Any:
        """Return the free entries of a state that was made for the whole tensor."""
        # a state loaded from a file may have the tensor's shape; one of the vector's, or a count of steps, stays
        is_full = isinstance(value, torch.Tensor) and value.shape == self.region.tensor.shape
        return take(value, self.free) if is_full and value.shape != self.vector.shape else value

    def _scatter(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape != self.vector.shape:
            return value
        full = torch.zeros(self.region.tensor.shape, dtype=value.dtype, device=value.device)
        assign(full, self.free, value)
        return full

    def _hash_of_protected(self) -> str:
        # one hash of all bits with the free entries cleared needs no list of the many protected ones
        bits = as_bits(self.region.local).clone()
        assign(bits, self.free, torch.zeros_like(self.free, dtype=bits.dtype))
        return hash_values(bits)


class Exchange:
    """An exchange of tensors for their compact vectors within each step of an optimizer."""

    def __init__(self, parts: Sequence[Compact]) -> None:
        self.parts = {id(part.region.tensor): part for part in parts}
        self._params: list[list[torch.Tensor]] | None = None  # of the parameter groups, while exchanged

    def enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Enter a step, without tensors that have no free entry."""
        self.leave(optimizer)  # which a step that raised has not done
        self._params = [group["params"] for group in optimizer.param_groups]
        for part in self.parts.values():
            part.load(optimizer.state)
        for group in optimizer.param_groups:
            exchanged = (self._stand_in(weight) for weight in group["params"])
            group["params"] = [weight for weight in exchanged if weight.numel()]

    def leave(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave a step, complete or broken off; outside of one nothing happens."""
        if self._params is None:
            return
        for group, params in zip(optimizer.param_groups, self._params, strict=True):
            group["params"] = params
        for part in self.parts.values():
            part.unload(optimizer.state)
        self._params = None

    def spread(self, optimizer: torch.optim.Optimizer) -> None:
        """Spread the optimizer's state once the exchange has ended for good."""
        for part in self.parts.values():
            part.spread(optimizer.state)

    def _stand_in(self, weight: torch.Tensor) -> torch.Tensor:
        part = self.parts.get(id(weight))
        return weight if part is None else part.vector
