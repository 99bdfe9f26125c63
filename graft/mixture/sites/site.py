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
        keeps_rows: whether it was found that what it gives for a row, as `rows_of` has it, stays in that row.
    """

    may_share = False  # whether an output with one row is that of every row

    def __init__(self, name: str, module: torch.nn.Module, call: Call) -> None:
        self.name, self.module, self.call = name, module, call
        self.contents: dict[Skill, Content] = {}
        self._places = _places(module)
        self.keeps_rows = False
        self._due = False
        # before the hook by which the model forgets its rows
        self._hooks = [module.register_forward_hook(untraced(self._after), with_kwargs=True, prepend=True)]

    def expect_call(self, parent: torch.nn.Module) -> None:
        """Have a parent's forward pass refused that does not call the module, but reads its weights in another way."""
        self._hooks.append(parent.register_forward_pre_hook(untraced(self._before_parent), with_kwargs=True))
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

    def _before_parent(self, parent: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = self.call.rows
        was_called = rows is not None and (self, self.call.n_rows, "called") in rows.cache
        self._due = not (was_called and _reads_kept(parent, (*args, *kwargs.values())))

    def _after_parent(self, parent: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._due and self.call.rows is not None and self._runs():
            raise ConfigError(
                f"module {self.name!r} was not called by {type(parent).__name__}, which reads its weights in a way of "
                "its own: skills that touch it can be grafted, not mixed"
            )

    def _after(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        self._due = False
        if (noise := self.call.disturbance) is not None:
            noise.called.add(self)
            return self._disturb(output, noise.row) if self in noise.sites else None
        if self.call.rows is None:
            return None
        if not (runs := self._runs()):
            return None
        if self.call.tells_rows_apart and not self.keeps_rows:
            raise ConfigError(
                f"module {self.name!r} could not be seen to keep the rows of such a batch apart: skills that touch it "
                "can be grafted, not mixed"
            )
        self.cached("called", bool)
        return self.change((args, kwargs), output, runs)

    def _disturb(self, output: Any, row: int) -> Any:
        """Put noise, about as large as the output, in the place that is taken for a row's."""
        parts = output if isinstance(output, tuple) else (output,)
        results = tuple(
            self.copy(part) if isinstance(part, torch.Tensor) and part.is_floating_point() else part for part in parts
        )
        for part, result in zip(parts, results, strict=True):
            if result is not part:
                own = self.rows_of(result, Run(row, row + 1, ()))
                own.add_(torch.randn_like(own) * (1 + part.abs().mean()))
        return results if isinstance(output, tuple) else results[0]

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
        self._count(tensor)
        shape = (self.call.n_rows, -1, tensor.shape[-1])
        return tensor.view(shape) if write else tensor.reshape(shape)

    def rows_of(self, tensor: torch.Tensor, run: Run) -> torch.Tensor:
        """View the part of a tensor that belongs to the rows of a run: rows, or tokens of all rows laid end to end.

        Raises:
            ConfigError: its first dimension is not that of the batch.
        """
        count = self._count(tensor)
        return tensor[run.start * count : run.stop * count]

    def copy(self, output: torch.Tensor) -> torch.Tensor:
        """Copy an output, once a row where the base's is the same for every row."""
        shared = self.may_share and output.dim() > 1 and output.shape[0] == 1
        return output.expand(self.call.n_rows, *output.shape[1:]).clone() if shared else output.clone()

    def _count(self, tensor: torch.Tensor) -> int:
        """Count the entries of a tensor's first dimension that a row has: one, or one a token."""
        count, rest = divmod(tensor.shape[0], self.call.n_rows)
        flat = tensor.dim() <= 2 and (not self.call.tells_rows_apart or count in self.call.n_tokens)
        if rest or (count != 1 and not flat):
            raise self.refuse_rows(tensor)
        return count


def _reads_kept(parent: torch.nn.Module, values: tuple[Any, ...]) -> bool:
    """Return whether a module has an encoder's keys and values from its first call, as a cache for it marks."""
    kept = (getattr(value, "is_updated", None) for value in values)
    return any(isinstance(flags, dict) and flags.get(getattr(parent, "layer_idx", None)) for flags in kept)


def _places(module: torch.nn.Module) -> dict[str, tuple[int, torch.dtype]]:
    parameters = module._parameters.items()
    return {name: (value.data_ptr(), value.dtype) for name, value in parameters if value is not None}
