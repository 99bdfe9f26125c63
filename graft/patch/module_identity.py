"""Check quickly that a live model still holds the same tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch


class ModuleIdentity:
    """The identity of some of a model's parameters and buffers: the entries of its modules' tables that lead to them.

    Args:
        model: the model.
        names: of the tensors, as `named_parameters` and `named_buffers` give them.
    """

    def __init__(self, model: torch.nn.Module, names: Iterable[str]) -> None:
        self._model = model
        self._links: dict[tuple[int, str], tuple[Mapping[str, object], object]] = {}
        for name in names:
            module, (*path, leaf) = model, name.split(".")
            for part in path:
                module = self._follow(module._modules, part)
            self._follow(module._parameters if leaf in module._parameters else module._buffers, leaf)

    def lost(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Return the first of the tensors that the model does not hold any more, None where it holds all.

        It holds one that it has under the same name, or, where it has nothing under that name, under some other.
        """
        if all(table.get(key) is entry for (_, key), (table, entry) in self._links.items()):
            return None
        by_name: dict[str, torch.Tensor] = dict(self._model.named_parameters(remove_duplicate=False))
        by_name |= dict(self._model.named_buffers(remove_duplicate=False))
        ids = {id(tensor) for tensor in by_name.values()}  # a module may be wrapped
        is_present = {
            name: by_name[name] is tensor if name in by_name else id(tensor) in ids for name, tensor in tensors.items()
        }
        return next((name for name in tensors if not is_present[name]), None)

    def _follow(self, table: Mapping[str, Any], key: str) -> Any:
        self._links[id(table), key] = table, table[key]
        return table[key]
