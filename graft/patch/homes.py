"""Which parameter or buffer of a live model a tensor is part of: a slice of packed weights is written where it lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graft.patch.aliases import extent_of
from graft.tensors.dtypes import lay_flat


@dataclass(frozen=True, eq=False)
class Home:
    """Entries of a model's own tensor.

    Attributes:
        name: as the model lists it.
        tensor: parameter or buffer.
        indices: (k,) int64 flat row-major indices.
    """

    name: str
    tensor: torch.Tensor
    indices: torch.Tensor


class Homes:
    """A model's own tensors, by identity and by storage."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self._tensors |= dict(model.named_buffers(remove_duplicate=False))

    def find(self, name: str, tensor: torch.Tensor, indices: torch.Tensor) -> Home:
        """Where entries of a tensor are: there, or, of a view, in the tensor of the model that it looks into."""
        if self._tensors.get(name) is tensor:
            return Home(name, tensor, indices)
        flat, places = lay_flat(tensor, indices)
        places = places + int(flat.storage_offset())
        for own, home in self._tensors.items():
            if home.dtype == tensor.dtype and _shares_storage(home, tensor):
                inside = places - int(home.storage_offset())
                if not len(inside) or (int(inside.min()) >= 0 and int(inside.max()) < extent_of(home)):
                    return Home(own, home, _index(inside, home))
        return Home(name, tensor, indices)


def _shares_storage(home: torch.Tensor, tensor: torch.Tensor) -> bool:
    if home.is_meta or home.layout is not torch.strided or home.device != tensor.device:
        return False
    return home.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _index(places: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """(k,) flat row-major indices of what lies at places of the memory, counted from the tensor's first element."""
    if tensor.is_contiguous():
        return places
    found, row_major = torch.zeros_like(places), torch.empty(tensor.shape, device="meta").stride()
    strides = zip(tensor.shape, tensor.stride(), row_major, strict=True)
    for stride, weight in sorted(((own, wanted) for n, own, wanted in strides if n > 1), reverse=True):
        found += places // stride * weight
        places = places % stride
    return found
