"""Site: a module that skills touch, and the hook that gives each row of its output what the row's skill makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch

from graft.errors import ConfigError
from graft.mixture.entries import Owned
from graft.mixture.rows import Call, Run, Skill

Content = TypeVar("Content")
Made = TypeVar("Made")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a function out of compiled graphs, which would hold the rows of their first call."""
    left_out: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return left_out


class Site(ABC, Generic[Content]):
    """A module with what each skill changes in it.

    Args:
        name: of the module.
        module: whose output is changed, row by row.
        call: what is known of the forward pass that is under way.

    Attributes:
        contents: of each skill that touches the module.
    """

    def __init__(self, name: str, module: torch.nn.Module, call: Call) -> None:
        self.name, self.module, self.call = name, module, call
        self.contents: dict[Skill, Content] = {}
        self._places = _places(module)
        self._due = False
        # before the hook by which the model forgets its rows
        self._hooks = [module.register_forward_hook(untraced(self._after), with_kwargs=True, prepend=True)]

    def expect_call(self, parent: torch.nn.Module) -> None:
        """Have a parent's forward pass refused that does not call the module, but reads its weights in another way."""
        self._hooks.append(parent.register_forward_pre_hook(untraced(self._before_parent)))
        self._hooks.append(parent.register_forward_hook(untraced(self._after_parent), prepend=True))

    @property
    def weight(self) -> torch.Tensor:
        """The module's weight, detached."""
        weight = self.module._parameters["weight"]
        assert weight is not None
        return weight.detach()

    @abstractmethod
    def prepare(self, entries: Owned) -> Content:
        """Return what is kept of a skill's entries, by the names of the module's parameters."""

    @abstractmethod
    def change(self, arguments: Arguments, output: Any, runs: tuple[Run, ...]) -> Any:
        """Return the output with the rows of these runs changed; all of them touch the module."""

    def find_moved(self) -> str | None:
        """Return the name of a parameter that has another place or dtype than at first; None where none has."""
        if (places := _places(self.module)) == self._places:
            return None
        moved = next(name for name, place in self._places.items() if places.get(name) != place)
        return f"{self.name}.{moved}" if self.name else moved

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _before_parent(self, parent: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self._due = True

    def _after_parent(self, parent: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._due and self.call.rows is not None and self._runs():
            raise ConfigError(
                f"module {self.name!r} was not called by {type(parent).__name__}, which reads its weights in a way of "
                "its own: skills that touch it can be grafted, not mixed"
            )

    def _after(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        self._due = False
        if self.call.rows is None:
            return None
        runs = self._runs()
        return self.change((args, kwargs), output, runs) if runs else None

    def _runs(self) -> tuple[Run, ...]:
        return self.cached("runs", lambda: tuple(run for run in self.call.runs() if run.skill in self.contents))

    def cached(self, what: Hashable, make: Callable[[], Made]) -> Made:
        """Return what is made once for these rows, as many as the batch under way has."""
        assert self.call.rows is not None
        cache, key = self.call.rows.cache, (self, self.call.n_rows, what)
        if key not in cache:
            cache[key] = make()
        made: Made = cache[key]
        return made

    def refuse_rows(self, tensor: torch.Tensor) -> ConfigError:
        """Say that a tensor does not have the batch's rows in its first dimension."""
        return ConfigError(
            f"module {self.name!r} is called with {list(tensor.shape)}, whose first dimension is not the "
            f"{self.call.n_rows} rows of the batch: skills that touch it can be grafted, not mixed"
        )

    def by_row(self, tensor: torch.Tensor, *, write: bool = False) -> torch.Tensor:
        """Return (rows, ..., n) or (rows * tokens, n) as (rows, tokens, n), never a copy where it is to be written to.

        Raises:
            ConfigError: its first dimension is not that of the batch.
        """
        n_rows = self.call.n_rows
        flat = tensor.dim() == 2 and tensor.shape[0] % n_rows == 0
        if tensor.shape[0] != n_rows and not flat:
            raise self.refuse_rows(tensor)
        shape = (n_rows, -1, tensor.shape[-1])
        return tensor.view(shape) if write else tensor.reshape(shape)


def _places(module: torch.nn.Module) -> dict[str, tuple[int, torch.dtype]]:
    parameters = module._parameters.items()
    return {name: (value.data_ptr(), value.dtype) for name, value in parameters if value is not None}
