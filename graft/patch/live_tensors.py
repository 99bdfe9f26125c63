"""Tensors and entries of a live model that patches write, each read and written as a whole, in bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch

from graft.errors import CheckpointError, RevertError
from graft.patch.aliases import Selection, overlaps_itself
from graft.tensors.dtypes import DTYPE_NAMES, as_bits, lay_flat
from graft.tensors.shards import is_distributed


class LiveSlot(Protocol):
    """A part of a live model's memory, which a graft reads once and writes twice."""

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The live tensors, by name."""
        ...

    def read(self) -> torch.Tensor:
        """Return a copy of the content."""
        ...

    def write(self, content: torch.Tensor) -> None:
        """Write a content of the form that `read` gives."""
        ...

    def at_present(self) -> LiveSlot:
        """Return itself, or the same part at the tensors' present addresses.

        Raises:
            RevertError: the model was cast.
        """
        ...

    def differing(self, left: torch.Tensor, right: torch.Tensor) -> str | None:
        """Return the first tensor at which two readings differ in bits, None where they are equal."""
        ...

    def selections(self) -> Iterator[Selection]:
        """Yield the entries that it reads and writes, tensor by tensor."""
        ...


class LiveEntries:
    """Entries of live tensors that share a device and a width of bits, laid end to end: K in all.

    The flat views and the offsets in them are kept between calls: making them is most of the cost where entries are
    few. They hold on to the tensors' present memory until `forget`.

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
        """Return (K,) integers: the bits of the entries."""
        bits = self._views[0][0].new_empty(sum(self._sizes))
        for (flat, offsets), part in zip(self._views, bits.split_with_sizes(self._sizes), strict=True):
            torch.index_select(flat, 0, offsets, out=part)
        return bits

    def write(self, content: torch.Tensor) -> None:
        """Write (K,) integers, the bits of the entries."""
        for (flat, offsets), part in zip(self._views, content.split_with_sizes(self._sizes), strict=True):
            with write_mode(flat):
                flat.index_copy_(0, offsets, part.to(flat.device))

    def at_present(self) -> LiveEntries:
        """Return itself, or the same entries at the tensors' present addresses."""
        if not self.moved():
            return self
        for grafted_dtype, tensor in zip(self._dtypes, self.tensors.values(), strict=True):
            refuse_cast(grafted_dtype, tensor.dtype)
        for shape, (name, tensor) in zip(self._shapes, self.tensors.items(), strict=True):
            if tensor.shape != shape or tensor.layout != torch.strided:
                raise RevertError(f"tensor {name!r} has another shape than when it was grafted: {list(tensor.shape)}")
        return LiveEntries(self.tensors, self._indices)

    def forget(self) -> None:
        """Release the memory; `at_present` is needed to write again."""
        self._views, self._seen = [], []

    def moved(self) -> str | None:
        """Return the first tensor that has another address, dtype or layout than it had; None where none has."""
        if not self._seen:
            return next(iter(self.tensors))
        for (name, tensor), (address, seen) in zip(self.tensors.items(), self._seen, strict=True):
            if tensor.data_ptr() != address or not tensor.is_set_to(seen):
                return name
        return None

    def lay_out(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return values (k,) of each tensor as (K,) integers on the device."""
        parts = [values[name].to(tensor.device, tensor.dtype) for name, tensor in self.tensors.items()]
        return torch.cat([as_bits(part) for part in parts])

    def differing(self, left: torch.Tensor, right: torch.Tensor) -> str | None:
        """Return the first tensor at which two (K,) integers differ, None where they are equal."""
        if torch.equal(left, right):  # the one wait for the device
            return None
        parts = zip(self.tensors, left.split_with_sizes(self._sizes), right.split_with_sizes(self._sizes), strict=True)
        return next(name for name, left_part, right_part in parts if not torch.equal(left_part, right_part))

    def selections(self) -> Iterator[Selection]:
        """Yield the entries of each tensor."""
        for name, tensor in self.tensors.items():
            yield name, tensor, self._indices[name]


class WholeTensor:
    """A tensor that is replaced whole."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.tensors = {name: tensor}
        self._tensor = tensor
        self._dtype = tensor.dtype

    def read(self) -> torch.Tensor:
        """Return the tensor as it is."""
        return self._tensor.detach().clone()

    def write(self, content: torch.Tensor) -> None:
        """Replace its values."""
        with write_mode(self._tensor):
            self._tensor.detach().copy_(content)

    def at_present(self) -> WholeTensor:
        """Return itself, as it depends on no address."""
        refuse_cast(self._dtype, self._tensor.dtype)
        return self

    def differing(self, left: torch.Tensor, right: torch.Tensor) -> str | None:
        """Return its name where two readings differ in bits, None where they are equal."""
        return None if torch.equal(as_bits(left), as_bits(right)) else next(iter(self.tensors))

    def selections(self) -> Iterator[Selection]:
        """Yield the tensor, all of it."""
        yield next(iter(self.tensors)), self._tensor, None


def tensors_of(slots: Iterable[LiveSlot]) -> dict[str, torch.Tensor]:
    """Return the live tensors of all slots, by name."""
    return {name: tensor for slot in slots for name, tensor in slot.tensors.items()}


def write_mode(tensor: torch.Tensor) -> torch.inference_mode:
    """Return the mode in which a tensor may be written: an inference tensor takes writes in inference mode alone."""
    return torch.inference_mode(tensor.is_inference())


def refuse_unwritable(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor whose entries have no memory of their own, one each.

    Raises:
        CheckpointError: naming it, and what it is.
    """
    if tensor.is_meta:
        raise CheckpointError(f"tensor {name!r} is on the meta device: load the model's weights first")
    if is_distributed(tensor):
        return
    if reason := _why_unwritable(tensor):
        raise CheckpointError(f"tensor {name!r} {reason}: its entries cannot be written one by one")


def _why_unwritable(tensor: torch.Tensor) -> str | None:
    if tensor.layout is not torch.strided:
        return f"is sparse ({tensor.layout})"
    if tensor.is_quantized or hasattr(tensor, "__tensor_flatten__") or hasattr(tensor, "quant_state"):
        return f"is quantized ({type(tensor).__name__}, {tensor.dtype})"
    if tensor.dtype not in DTYPE_NAMES:
        return f"is of {tensor.dtype}, which no checkpoint holds"
    if overlaps_itself(tensor):
        return f"is an expanded view (shape {list(tensor.shape)}, strides {list(tensor.stride())})"
    return None


def refuse_cast(grafted: torch.dtype, present: torch.dtype) -> None:
    """Refuse a tensor that has another dtype than when it was grafted.

    Raises:
        RevertError: saying so.
    """
    if grafted != present:
        raise RevertError(f"the model was cast from {grafted} to {present} since the graft")
