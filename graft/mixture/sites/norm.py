"""Norms, whose output is linear in their weight: y = w * n(x) + b, with few entries of w and b a skill."""

from __future__ import annotations

from typing import Any

import torch

from graft.mixture.delta import Delta
from graft.mixture.entries import Owned
from graft.mixture.rows import Call, Run
from graft.mixture.sites.matrix import MatrixSite, split_entries
from graft.mixture.sites.rerun import with_entries, with_parameters
from graft.mixture.sites.site import Arguments


class NormSite(MatrixSite):
    """A norm over the last dimension: a diagonal matrix between what it has normalized and its output."""

    def __init__(self, name: str, module: torch.nn.Module, call: Call) -> None:
        super().__init__(name, module, call)
        self._adds = _adds_unweighted(module)

    def delta_of(self, entries: Owned) -> Delta:
        """Return the entries as those of a diagonal matrix."""
        return Delta(*split_entries(entries, self.weight), (self.weight.numel(),) * 2)

    def inputs(self, arguments: Arguments) -> torch.Tensor:
        """Return n(x), by which the weight is multiplied."""
        return normalize(self.module, arguments, adds=self._adds)

    def change(self, arguments: Arguments, output: Any, runs: tuple[Run, ...]) -> torch.Tensor:
        """Add to the rows of each run what its skill adds; exactly, run the norm again with its weights."""
        if not self.call.exact:
            return super().change(arguments, output, runs)
        result: torch.Tensor = output.clone(memory_format=torch.contiguous_format)
        outputs = self.by_row(result, write=True)
        for run in runs:
            delta = self.contents[run.skill].delta
            weights = {"weight": (delta.matrix.rows, delta.new), "bias": (delta.bias.rows, delta.new_bias)}
            changed = {
                name: with_entries(self.module, name, *entries) for name, entries in weights.items() if len(entries[0])
            }
            with with_parameters(self.module, changed):
                again = self.module.forward(*arguments[0], **arguments[1])
            outputs[run.rows] = self.by_row(again)[run.rows]
        return result


def normalize(module: torch.nn.Module, arguments: Arguments, *, adds: bool = True) -> torch.Tensor:
    """Return n(x) of a norm y = w * n(x) + b, or (1 + w) * n(x) + b: its output at w = 1 less that at w = 0.

    Args:
        module: the norm.
        arguments: of its call.
        adds: whether its output at w = 0 can be other than 0; most norms' is not, and need not be computed.
    """
    args, kwargs = arguments
    zeros = _zeros_of(module)
    with with_parameters(module, {**zeros, "weight": torch.ones_like(zeros["weight"])}):
        normalized: torch.Tensor = module.forward(*args, **kwargs)
    if adds:
        with with_parameters(module, zeros):
            normalized = normalized - module.forward(*args, **kwargs)
    return normalized


def _zeros_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) for name, value in module._parameters.items() if value is not None}


def _adds_unweighted(module: torch.nn.Module) -> bool:
    """Return whether a norm gives something at w = 0 and b = 0, as (1 + w) * n(x) does."""
    with torch.no_grad(), with_parameters(module, _zeros_of(module)):
        return bool(module.forward(_probe(module)).any())


def _probe(module: torch.nn.Module) -> torch.Tensor:
    """Return random numbers of a norm's size."""
    weight = module._parameters["weight"]
    assert weight is not None
    generator = torch.Generator(weight.device).manual_seed(0)
    return torch.randn(2, 3, weight.numel(), generator=generator, device=weight.device).to(weight.dtype)


def is_norm(module: torch.nn.Module) -> bool:
    """Return whether a module works as a norm does: found out by running it on random numbers of its own size."""
    names = {name for name, value in module._parameters.items() if value is not None}
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 1 or names - {"weight", "bias"} or list(module.children()):
        return False
    inputs = _probe(module)
    try:
        with torch.no_grad():
            output, scaled = module.forward(inputs), normalize(module, ((inputs,), {})) * weight
            with with_parameters(module, {"weight": torch.zeros_like(weight)}):
                rest = module.forward(inputs)
    except Exception:  # a module that takes something else is no norm
        return False
    return torch.allclose(output.float(), (scaled + rest).float(), rtol=0.05, atol=0.05)
