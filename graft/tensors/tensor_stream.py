"""Write a safetensors file tensor by tensor: the header is known beforehand, so that memory holds one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from graft.files.header import format_header
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.tensors.dtypes import spec_of, to_bytes


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: its dtype and shape, and the function that makes it when its turn comes."""

    spec: TensorSpec
    make: Callable[[], torch.Tensor]


def plan_tensor(tensor: torch.Tensor) -> Planned:
    """Plan a tensor that is at hand already."""
    return Planned(spec_of(tensor), lambda: tensor)


def write_tensors(path: Path, tensors: Mapping[str, Planned], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same content gives the same bytes where there is at most one metadata key.

    Tensors lie in the library's own order, wide dtypes first, then by name, so that each is aligned.

    Raises:
        ValueError: a tensor turned out to be another than was planned.
    """
    names = sorted(tensors, key=lambda name: (-ITEM_SIZES[tensors[name].spec.dtype], name))
    with path.open("wb") as file:
        file.write(format_header({name: tensors[name].spec for name in names}, metadata))
        for name in names:
            tensor = tensors[name].make()
            if spec_of(tensor) != tensors[name].spec:
                raise ValueError(f"{name!r}: {spec_of(tensor)}, but {tensors[name].spec} was planned")
            file.write(to_bytes(tensor))
