"""Tensors of the files that a live model holds packed: transformers' own conversion, followed without values.

Checkpoints list a matrix per expert, `experts.3.gate_proj.weight`; the model holds all of a layer's experts in one
parameter, `experts.gate_up_proj` of shape [experts, 2 x width, hidden]. The conversion back, with which transformers
saves, is run here on meta tensors: where one of its results is a view of a parameter, its offset and strides say
exactly which elements the file's tensor is, both ways. A result that has to be copied is no view, and is refused by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class PackedPart:
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

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this part of a tensor of the parameter's shape, such as its gradient: a view if contiguous."""
        tensor = tensor.contiguous()
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.offset)

    def locate(self, indices: torch.Tensor) -> torch.Tensor:
        """Map (k,) int64 flat row-major indices in the part to (k,) int64 in the parameter, in the same order."""
        strides = torch.tensor(self.strides, device=indices.device).unsqueeze(1)
        return self.offset + (torch.stack(torch.unravel_index(indices, self.shape)) * strides).sum(0)

    def find(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find which of (k,) flat indices of the parameter lie in the part, and where: the inverse of `locate`.

        What is left of an index after the offset is divided by the strides, the widest first. In a part of shape (2, 2)
        with strides (1, 6) and offset 2, index 9 leaves 7 = 1 * 6 + 1 * 1: element [1, 1], local index 3. Index 11
        leaves 9 = 1 * 6 + 3, and 3 is no index of the first dimension: it lies outside.

        Returns:
            positions: (m,) int64, ascending: indices[positions] lie in the part.
            local: (m,) int64, their flat row-major indices in it.
        """
        rest = indices - self.offset
        inside, local = rest >= 0, torch.zeros_like(rest)
        row_major = torch.empty(self.shape, device="meta").stride()
        for stride, n, step in sorted(zip(self.strides, self.shape, row_major, strict=True), reverse=True):
            coordinate = (rest // stride).clamp(max=n - 1)  # what lies beyond leaves a rest
            local, rest = local + coordinate * step, rest - coordinate * stride
        positions = (inside & (rest == 0)).nonzero().squeeze(1)
        return positions, local[positions]


@dataclass(frozen=True)
class Packing:
    """Names of the same weights in files and in a live model of one architecture.

    Attributes:
        listed: the names in files as transformers writes them now -> shape.
        parts: of these, the tensors that are a part of a parameter.
        rebuilt: of these, the tensors that are put together from copies, which no part of a parameter holds.
        packed: the parameters that have parts -> shape.
        converts: whether transformers changes more than names of some tensors when it loads them.
    """

    listed: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, PackedPart]
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
    """Trace how transformers would write a model's state into files.

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
        saved: dict[str, torch.Tensor] = revert_weight_conversion(source, dict(meta))
    owners = {tensor.untyped_storage()._cdata: name for name, tensor in meta.items()}
    parts, rebuilt = {}, set()
    for name, tensor in saved.items():
        owner = owners.get(tensor.untyped_storage()._cdata)
        if owner is None:
            rebuilt.add(name)
        elif (tensor.shape, tensor.stride()) != (meta[owner].shape, meta[owner].stride()):
            parts[name] = PackedPart(owner, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
    packed = {part.owner: tuple(meta[part.owner].shape) for part in parts.values()}
    return Packing({name: tuple(tensor.shape) for name, tensor in saved.items()}, parts, frozenset(rebuilt), packed)


def list_as_saved(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a model's state as transformers would write it into files: by their names, packed tensors part by part.

    Parts are views of the state's tensors wherever they lie in one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    with _ViewsOnly():
        saved: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(state))
    return saved


class _ViewsOnly(TorchFunctionMode):
    """A mode in which `contiguous` returns views as they are, without a copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.contiguous else func(*args, **(kwargs or {}))


def _conversions_of(model: Any) -> list[Any]:
    """Return all conversions that transformers makes when it loads the model; none where they change names alone."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        conversions = get_model_conversion_mapping(model, add_legacy=False)
    except (ImportError, AttributeError, TypeError):  # not a transformers model
        return []
    used = [item for item in conversions if type(item).__name__ != "PrefixChange"]  # as transformers does when saving
    return used if any(isinstance(item, WeightConverter) for item in used) else []
