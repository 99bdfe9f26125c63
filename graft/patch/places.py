"""Where patches write in a live model: each kind of place is read and written as a whole, in bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch

from graft.errors import RevertError
from graft.tensors.dtypes import as_bits, lay_flat


class Places(Protocol):
    """What a graft reads once and writes twice."""

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The live tensors, by name."""
        ...

    def read(self) -> torch.Tensor:
        """What is there, as a copy."""
        ...

    def write(self, held: torch.Tensor) -> None:
        """Put there what `read` gave, or like it."""
        ...

    def at_present(self) -> Places:
        """Itself, or the same places where the tensors lie now.

        Raises:
            RevertError: the model was cast.
        """
        ...

    def touched(self) -> Iterator[tuple[int, torch.Tensor | None]]:
        """Storage by address, and the places in it, on the CPU; None stands for all."""
        ...


class Entries:
    """Entries of live tensors that share a device and a width of bits, laid end to end: K in all.

    The flat views and the places in them are kept between calls: to make them is most of the cost where entries are
    few. They hold on to the tensors' present memory, until `forget`.

    Args:
        tensors: by name.
        indices: of each, (k,) int64 flat row-major indices.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], indices: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self._indices = indices
        self._sizes = [indices[name].numel() for name in tensors]
        self._views = [lay_flat(tensor, indices[name]) for name, tensor in tensors.items()]
        self._seen = [(tensor.data_ptr(), tensor.detach()) for tensor in tensors.values()]
        self._dtypes = [tensor.dtype for tensor in tensors.values()]
        self._shapes = [tensor.shape for tensor in tensors.values()]

    def read(self) -> torch.Tensor:
        """(K,) integers: the bits there."""
        found = self._views[0][0].new_empty(sum(self._sizes))
        for (flat, places), part in zip(self._views, found.split_with_sizes(self._sizes), strict=True):
            torch.index_select(flat, 0, places, out=part)
        return found

    def write(self, held: torch.Tensor) -> None:
        """Put (K,) integers there."""
        for (flat, places), part in zip(self._views, held.split_with_sizes(self._sizes), strict=True):
            flat.index_copy_(0, places, part.to(flat.device))

    def at_present(self) -> Entries:
        """Itself, or the same entries where the tensors lie now."""
        if not self.moved():
            return self
        for then, tensor in zip(self._dtypes, self.tensors.values(), strict=True):
            refuse_cast(then, tensor.dtype)
        for shape, (name, tensor) in zip(self._shapes, self.tensors.items(), strict=True):
            if tensor.shape != shape or tensor.layout != torch.strided:
                raise RevertError(f"tensor {name!r} has another shape than when it was grafted: {list(tensor.shape)}")
        return Entries(self.tensors, self._indices)

    def forget(self) -> None:
        """Let go of the memory; to write again takes `at_present`."""
        self._views, self._seen = [], []

    def moved(self) -> str | None:
        """The first tensor that now lies elsewhere, or in another dtype or layout, than it did."""
        if not self._seen:
            return next(iter(self.tensors))
        for (name, tensor), (address, then) in zip(self.tensors.items(), self._seen, strict=True):
            if tensor.data_ptr() != address or not tensor.is_set_to(then):
                return name
        return None

    def lay_out(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Values (k,) of each tensor as (K,) integers on the device."""
        parts = [values[name].to(tensor.device, tensor.dtype) for name, tensor in self.tensors.items()]
        return torch.cat([as_bits(part) for part in parts])

    def differing(self, left: torch.Tensor, right: torch.Tensor) -> str | None:
        """The first tensor at which two (K,) integers differ, None where they are equal."""
        if torch.equal(left, right):  # the one wait for the device
            return None
        parts = zip(self.tensors, left.split_with_sizes(self._sizes), right.split_with_sizes(self._sizes), strict=True)
        return next(name for name, mine, theirs in parts if not torch.equal(mine, theirs))

    def touched(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Storage by address, and the places in it, on the CPU."""
        for flat, places in self.at_present()._views:
            yield flat.untyped_storage().data_ptr(), (places + int(flat.storage_offset())).cpu()


class WholeTensor:
    """A tensor that is replaced whole."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.tensors = {name: tensor}
        self._tensor = tensor
        self._dtype = tensor.dtype

    def read(self) -> torch.Tensor:
        """The tensor as it is."""
        return self._tensor.detach().clone()

    def write(self, held: torch.Tensor) -> None:
        """Replace its values."""
        self._tensor.detach().copy_(held)

    def at_present(self) -> WholeTensor:
        """Itself."""
        refuse_cast(self._dtype, self._tensor.dtype)
        return self

    def touched(self) -> Iterator[tuple[int, None]]:
        """Its storage's address."""
        yield self._tensor.untyped_storage().data_ptr(), None


def meet(mine: Iterable[Places], theirs: Iterable[Places]) -> bool:
    """Whether both write to a common place."""
    others: dict[int, list[torch.Tensor | None]] = {}
    for place in theirs:
        for storage, entries in place.touched():
            others.setdefault(storage, []).append(entries)
    return any(
        entries is None or other is None or bool(torch.isin(entries, other).any())
        for place in mine
        for storage, entries in place.touched()
        for other in others.get(storage, ())
    )


def refuse_cast(then: torch.dtype, now: torch.dtype) -> None:
    """Raise where a tensor has another dtype than when it was grafted.

    Raises:
        RevertError: saying so.
    """
    if then != now:
        raise RevertError(f"the model was cast from {then} to {now} since the graft")
