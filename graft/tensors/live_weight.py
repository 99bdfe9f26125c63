"""A checkpoint's tensor in a live model: a parameter, or a view of one that packs several, with its gradient.

Both directions are here: from an architecture's packing to the parts of live parameters (`find_parts`), and from a
view back to the parameter or buffer that it looks into (`Owners`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graft.errors import CheckpointError
from graft.tensors.dtypes import lay_flat
from graft.tensors.packed import PackedPart, Packing
from graft.tensors.shards import is_distributed


@dataclass(frozen=True, eq=False)
class LiveWeight:
    """A tensor that gets its gradient through the parameter that it lies in.

    Attributes:
        owner: the parameter.
        part: where in it the tensor lies; None for all of it.
    """

    owner: torch.Tensor
    part: PackedPart | None = None

    @property
    def memory_key(self) -> tuple[object, ...]:
        """A key that is the same for all names of one weight."""
        part = self.part
        return (id(self.owner), *((part.shape, part.strides, part.offset) if part else ()))

    @property
    def values(self) -> torch.Tensor:
        """The tensor, sharing the model's memory, detached."""
        return self.of(self.owner.detach())

    @property
    def grad(self) -> torch.Tensor | None:
        """Its gradient, a view of the parameter's; None where there is none."""
        return None if self.owner.grad is None else self.of(self.owner.grad)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the same part of a tensor of the parameter's shape, such as a moment of the optimizer."""
        return tensor if self.part is None else self.part.of(tensor)


class Owners:
    """A model's own parameters and buffers, found by what looks into them: the one way from a view to its parameter.

    Args:
        model: the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._named: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self._named |= dict(model.named_buffers(remove_duplicate=False))
        self._by_storage: dict[tuple[str, int], list[str]] = {}
        for name, tensor in self._named.items():
            if not (tensor.is_meta or tensor.layout is not torch.strided or is_distributed(tensor)):
                self._by_storage.setdefault(_storage_of(tensor), []).append(name)
        self._ids = {id(tensor) for tensor in self._named.values()}

    def weight(self, name: str, tensor: torch.Tensor) -> LiveWeight:
        """Find the parameter that a tensor is, or is a view of."""
        if id(tensor) in self._ids or is_distributed(tensor):
            return LiveWeight(tensor)
        first = int(tensor.storage_offset())
        owner = self._named[self._find_owner(tensor, first, first + extent_of(tensor)) or name]
        if (tensor.shape, tensor.stride()) == (owner.shape, owner.stride()):
            return LiveWeight(owner)
        return LiveWeight(
            owner, PackedPart(name, tuple(tensor.shape), tensor.stride(), first - int(owner.storage_offset()))
        )

    def entries(self, name: str, tensor: torch.Tensor, indices: torch.Tensor) -> OwnedEntries:
        """Find the entries at (k,) flat indices of a tensor: in itself, or, of a view, in the tensor it looks into."""
        if self._named.get(name) is tensor:
            return OwnedEntries(name, tensor, indices)
        flat, offsets = lay_flat(tensor, indices)
        offsets = offsets + int(flat.storage_offset())
        bounds = (int(offsets.min()), int(offsets.max()) + 1) if len(offsets) else None
        owner_name = self._find_owner(tensor, *bounds) if bounds else self._find_owner(tensor, 0, 0)
        if owner_name is None:
            return OwnedEntries(name, tensor, indices)
        owner = self._named[owner_name]
        return OwnedEntries(owner_name, owner, _index(offsets - int(owner.storage_offset()), owner))

    def _find_owner(self, tensor: torch.Tensor, start: int, stop: int) -> str | None:
        """Find the first own tensor of the dtype that holds the elements from start to stop of the storage."""
        if tensor.is_meta or is_distributed(tensor):
            return None
        for name in self._by_storage.get(_storage_of(tensor), ()):
            owner = self._named[name]
            first = int(owner.storage_offset())
            if owner.dtype == tensor.dtype and (start == stop or (first <= start and stop <= first + extent_of(owner))):
                return name
        return None


@dataclass(frozen=True, eq=False)
class OwnedEntries:
    """Entries of a model's own tensor.

    Attributes:
        name: as the model lists it.
        tensor: parameter or buffer.
        indices: (k,) int64 flat row-major indices.
    """

    name: str
    tensor: torch.Tensor
    indices: torch.Tensor


def find_owners(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, LiveWeight]:
    """Find the parameter that each of some tensors is, or is a view of."""
    owners = Owners(model)
    return {name: owners.weight(name, tensor) for name, tensor in tensors.items()}


def find_readers(model: torch.nn.Module) -> dict[int, list[torch.nn.Module]]:
    """Find the modules that hold each parameter, by its id: more than one where it is tied."""
    readers: dict[int, list[torch.nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            readers.setdefault(id(parameter), []).append(module)
    return readers


def group_by_owner(weights: Mapping[str, LiveWeight]) -> list[tuple[torch.Tensor, dict[str, LiveWeight]]]:
    """Return each parameter once, with the tensors that lie in it."""
    groups: dict[int, tuple[torch.Tensor, dict[str, LiveWeight]]] = {}
    for name, weight in weights.items():
        groups.setdefault(id(weight.owner), (weight.owner, {}))[1][name] = weight
    return list(groups.values())


def find_parts(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], packing: Packing) -> dict[str, PackedPart]:
    """Return the parts of a live model's parameters, by the names that they have within its wrappers.

    Args:
        model: the model within any wrappers, whose names the packing speaks of.
        tensors: name -> parameter, as the outermost wrapper names them.
        packing: of the model's architecture.

    Raises:
        CheckpointError: a packed parameter is in shards over processes, or not contiguous.
    """
    if not packing.parts:
        return {}
    outer = {id(tensor): name for name, tensor in tensors.items()}
    own = dict(model.named_parameters(remove_duplicate=False))
    parts = {}
    for name, part in packing.parts.items():
        owner = own[part.owner]
        if is_distributed(owner) or not owner.is_contiguous():
            raise CheckpointError(
                f"parameter {part.owner!r} packs tensors of the files: it must be whole, in one piece"
            )
        parts[name] = dataclasses.replace(part, owner=outer[id(owner)])
    return parts


def extent_of(tensor: torch.Tensor) -> int:
    """Return the number of elements of the storage from a tensor's first to its last."""
    if not tensor.numel():
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _storage_of(tensor: torch.Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _index(offsets: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Turn (k,) offsets in memory, counted from a tensor's first element, into flat row-major indices.

    Of shape (3, 2) and strides (1, 3), offset 4 is 4 // 3 = 1 in the second dimension and 1 in the first: index 3.
    """
    if tensor.is_contiguous():
        return offsets
    indices, row_major = torch.zeros_like(offsets), torch.empty(tensor.shape, device="meta").stride()
    strides = zip(tensor.shape, tensor.stride(), row_major, strict=True)
    for stride, weight in sorted(((own, wanted) for n, own, wanted in strides if n > 1), reverse=True):
        indices += offsets // stride * weight
        offsets = offsets % stride
    return indices
