"""Any module: run again on the rows of each skill, with that skill's weights in the place of the base's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from graft.errors import ConfigError
from graft.mixture.entries import Owned
from graft.mixture.rows import Run
from graft.mixture.sites.site import Arguments, Site


class RerunSite(Site[Owned]):
    """A module of any kind that works row by row, such as the packed experts of a mixture.

    The skill's weights are made for the moment of the call, in which modules within it give all rows the skill. The
    bits are those of the grafted model's module, given the rows of the run.
    """

    may_share = True

    def prepare(self, entries: Owned) -> Owned:
        """Keep the entries as they are."""
        return entries

    def change(self, arguments: Arguments, output: Any, runs: tuple[Run, ...]) -> Any:
        """Put in place of each run's rows what the module gives with the skill's weights."""
        outputs = output if isinstance(output, tuple) else (output,)
        results = tuple(self.copy(part) if isinstance(part, torch.Tensor) else part for part in outputs)
        for run in runs:
            # exactly: on all rows, of which these are taken, so that its products are as large as the graft's
            given = Run(0, self.call.n_rows, run.skill) if self.call.exact else run
            again = self._run_again(arguments, given)
            for result, part in zip(results, again if isinstance(again, tuple) else (again,), strict=True):
                if isinstance(result, torch.Tensor):
                    self.rows_of(result, run).copy_(self.rows_of(part, run) if self.call.exact else part)
        return results if isinstance(output, tuple) else results[0]

    def _run_again(self, arguments: Arguments, run: Run) -> Any:
        args = [self._argument(value, run) for value in arguments[0]]
        kwargs = {key: self._argument(value, run) for key, value in arguments[1].items()}
        weights = {
            name: with_entries(self.module, name, entries.indices, entries.values)
            for name, entries in self.contents[run.skill].items()
        }
        with with_parameters(self.module, weights), self.call.alone(run):
            return self.module.forward(*args, **kwargs)

    def _argument(self, value: Any, run: Run) -> Any:
        if isinstance(value, torch.Tensor) and value.dim():
            return value if value.shape[0] == 1 < self.call.n_rows else self.rows_of(value, run)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ConfigError(
            f"module {self.name!r} is called with a {type(value).__name__}: skills that touch it can be grafted, "
            "not mixed"
        )


def with_entries(module: torch.nn.Module, name: str, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return a copy of a module's parameter with (k,) values at (k,) flat indices."""
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter.detach().flatten().index_copy(0, indices, values).view(parameter.shape)


@contextlib.contextmanager
def with_parameters(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Put tensors in the place of a module's parameters for a while."""
    present = {name: module._parameters[name] for name in tensors}
    try:
        for name, tensor in tensors.items():
            module._parameters[name] = tensor  # type: ignore[assignment]  # a plain tensor is read the same way
        yield
    finally:
        module._parameters.update(present)
