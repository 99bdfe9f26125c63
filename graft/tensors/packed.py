"""Tensors of the files that a live model holds packed: transformers' own conversion, followed without values.

Checkpoints list a matrix per expert, `experts.3.gate_proj.weight`; the model holds all of a layer's experts in one
parameter, `experts.gate_up_proj` of shape [experts, 2 x width, hidden]. The conversion back, with which transformers
saves, is run here on meta tensors: where each of its results is a view of one parameter, its offset and strides say
which elements the file's tensor is, exactly, both ways. What it has to copy for is no view, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Part:
    """A tensor of the files as a strided part of a contiguous parameter.

    Attributes:
        owner: name of the parameter.
        shape: of the part.
        strides: between its elements in the parameter, per dimension.
        offset: of its first element in the parameter.
    """

    owner: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this part of a tensor of the parameter's shape, such as its gradient: a view if contiguous."""
        whole = whole.contiguous()
        return whole.as_strided(self.shape, self.strides, whole.storage_offset() + self.offset)

    def locate(self, indices: torch.Tensor) -> torch.Tensor:
        """Map (k,) int64 flat row-major indices in the part to (k,) int64 in the parameter, in the same order."""
        strides = torch.tensor(self.strides, device=indices.device).unsqueeze(1)
        return self.offset + (torch.stack(torch.unravel_index(indices, self.shape)) * strides).sum(0)

    def find(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find which of (k,) flat indices of the parameter lie in the part, and where: the inverse of `locate`.

        Returns:
            places: (m,) int64, ascending: indices[places] lie in the part.
            local: (m,) int64, their flat row-major indices in it.
        """
        rest = indices - self.offset
        inside, local = rest >= 0, torch.zeros_like(rest)
        row_major = torch.empty(self.shape, device="meta").stride()
        for stride, n, step in sorted(zip(self.strides, self.shape, row_major, strict=True), reverse=True):
            coordinate = (rest // stride).clamp(max=n - 1)  # what lies beyond leaves a rest
            local, rest = local + coordinate * step, rest - coordinate * stride
        places = (inside & (rest == 0)).nonzero().squeeze(1)
        return places, local[places]


@dataclass(frozen=True)
class Packing:
    """Names of the same weights in files and in a live model of one architecture.

    Attributes:
        listed: the names in files as transformers writes them now -> shape.
        parts: of these, the tensors that are a part of a parameter.
        rebuilt: of these, the tensors that are put together from copies, for which there is no place in the model.
        packed: the parameters that have parts -> shape.
        converts: whether transformers changes more than names of some tensors when it loads them.
    """

    listed: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, Part]
    rebuilt: frozenset[str]
    packed: Mapping[str, tuple[int, ...]]
    converts: bool = True

    def owners(self) -> dict[str, list[str]]:
        """Return parameter -> names of its parts."""
        result: dict[str, list[str]] = {}
        for name, part in self.parts.items():
            result.setdefault(part.owner, []).append(name)
        return result


def follow_packing(model: Any, state: Mapping[str, torch.Tensor]) -> Packing:
    """Follow how transformers would write a model's state into files.

    Args:
        model: a model of transformers, or any other, whose names are then those of the files.
        state: name -> parameter or persistent buffer; shapes alone are looked at.
    """
    conversions = _conversions_of(model)
    if not conversions:
        return Packing({name: tuple(tensor.shape) for name, tensor in state.items()}, {}, frozenset(), {}, False)
    from transformers.core_model_loading import revert_weight_conversion

    meta = {name: torch.empty(tensor.shape, device="meta") for name, tensor in state.items()}
    source = SimpleNamespace(_weight_conversions=conversions, config=model.config, get_parameter=model.get_parameter)
    with _ViewsOnly():
        written: dict[str, torch.Tensor] = revert_weight_conversion(source, dict(meta))
    owners = {tensor.untyped_storage()._cdata: name for name, tensor in meta.items()}
    parts, rebuilt = {}, set()
    for name, tensor in written.items():
        owner = owners.get(tensor.untyped_storage()._cdata)
        if owner is None:
            rebuilt.add(name)
        elif (tensor.shape, tensor.stride()) != (meta[owner].shape, meta[owner].stride()):
            parts[name] = Part(owner, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
    packed = {part.owner: tuple(meta[part.owner].shape) for part in parts.values()}
    return Packing({name: tuple(tensor.shape) for name, tensor in written.items()}, parts, frozenset(rebuilt), packed)


class _ViewsOnly(TorchFunctionMode):
    """Leaves views as they are where a contiguous copy is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.contiguous else func(*args, **(kwargs or {}))


def _conversions_of(model: Any) -> list[Any]:
    """List what changes more than names when transformers loads the model; all of its conversions, or none."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        conversions = get_model_conversion_mapping(model, add_legacy=False)
    except (ImportError, AttributeError, TypeError):  # not a transformers model
        return []
    kept = [item for item in conversions if type(item).__name__ != "PrefixChange"]  # as transformers does when saving
    return kept if any(isinstance(item, WeightConverter) for item in kept) else []
