"""The entries that a skill writes, by the modules that own their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from graft.errors import PatchMismatchError


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of one parameter.

    Attributes:
        indices: (k,) int64 flat row-major indices.
        values: (k,) the skill's values.
        delta: (k,) fp32 (of fp64, fp64): what is added to the base's.
    """

    indices: torch.Tensor
    values: torch.Tensor
    delta: torch.Tensor

    @classmethod
    def of(cls, parameter: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> Entries:
        """Measure values from those of the base's parameter."""
        wide = torch.promote_types(values.dtype, torch.float32)
        return cls(indices, values, values.to(wide) - parameter.detach().flatten()[indices].to(wide))


Write = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # a live parameter, flat indices, values
Owned = dict[str, Entries]  # of one module, by the name of its parameter


def find_modules(model: torch.nn.Module, writes: Iterable[Write]) -> dict[str, tuple[torch.nn.Module, Owned]]:
    """Find the modules that own what is written, a tied parameter in each of its places.

    Returns:
        Name of the module -> it, and its entries.

    Raises:
        PatchMismatchError: what is written is no parameter of a module, such as a buffer.
    """
    places = _places(model)
    modules: dict[str, tuple[torch.nn.Module, Owned]] = {}
    for tensor, indices, values in writes:
        if id(tensor) not in places:
            raise PatchMismatchError("the patch changes a buffer, which rows of a batch cannot have apart: graft it")
        entries = Entries.of(tensor, indices, values)
        for name, module, attribute in places[id(tensor)]:
            modules.setdefault(name, (module, {}))[1][attribute] = entries
    return modules


def _places(model: torch.nn.Module) -> Mapping[int, list[tuple[str, torch.nn.Module, str]]]:
    """Return where each parameter lies: id -> name of the module, the module, name of the parameter in it."""
    places: dict[int, list[tuple[str, torch.nn.Module, str]]] = {}
    for name, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((name, module, attribute))
    return places
