"""Writing a safetensors file tensor by tensor: the header is known beforehand, so that memory holds one tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from graft.tensors.dtypes import ITEM_SIZES, TensorSpec, spec_of, to_bytes

ALIGNMENT = 8  # the tensors' bytes start at a multiple of it, as the safetensors library writes them


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: what it will be, and the function that makes it when its turn comes."""

    spec: TensorSpec
    make: Callable[[], torch.Tensor]


def plan_tensor(tensor: torch.Tensor) -> Planned:
    """Return a tensor that is at hand already."""
    return Planned(spec_of(tensor), lambda: tensor)


def write_tensors(path: Path, tensors: Mapping[str, Planned], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same content gives the same bytes where there is at most one metadata key.

    Tensors lie in the library's own order, wide dtypes first, then by name, so that each is aligned.

    Raises:
        ValueError: a tensor turned out to be another than was planned.
    """
    names = sorted(tensors, key=lambda name: (-ITEM_SIZES[tensors[name].spec.dtype], name))
    with path.open("wb") as file:
        file.write(_header(names, tensors, metadata))
        for name in names:
            tensor = tensors[name].make()
            if spec_of(tensor) != tensors[name].spec:
                raise ValueError(f"{name!r}: {spec_of(tensor)}, but {tensors[name].spec} was planned")
            file.write(to_bytes(tensor))


def _header(names: list[str], tensors: Mapping[str, Planned], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in names:
        spec = tensors[name].spec
        stop = start + spec.numel * ITEM_SIZES[spec.dtype]
        entries[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(math.ceil(len(text) / ALIGNMENT) * ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
