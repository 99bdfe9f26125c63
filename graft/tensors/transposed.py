"""Weights that are stored transposed: which axis of a matrix is its input, told by the class of its module.

A matrix is (out, in) everywhere but in transformers' Conv1D, in GPT-2 and its kin, and in the packed experts of a few
architectures, which say so themselves. A class is known by itself, never by its name, which remote code may have too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar

import torch

from graft.errors import CheckpointError
from graft.tensors.architecture import architecture_of, build_on_meta
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import kind_of

T = TypeVar("T")
# how GPT-2 and its kin call their Conv1D layers, and others layers that are stored as every matrix is
_MAYBE_CONV1D = re.compile(r"(^|[._])(c_\w+|q_attn)([._]weight)?$")


def is_conv1d(module: torch.nn.Module) -> bool:
    """Return whether a module is transformers' Conv1D, x W + b with W stored as (in, out), or a subclass of it."""
    library = sys.modules.get("transformers.pytorch_utils")  # without it there is no such module, and it loads slowly
    return library is not None and isinstance(module, library.Conv1D)


def is_plain_conv1d(module: torch.nn.Module) -> bool:
    """Return whether a module is a Conv1D that computes as transformers' does, x W + b."""
    return is_conv1d(module) and type(module).forward is sys.modules["transformers.pytorch_utils"].Conv1D.forward


def is_plain_linear(module: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Return whether a module is a linear layer that computes as torch's does, W x + b."""
    return isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward


def may_be_transposed(name: str) -> bool:
    """Return whether a tensor or module has a name that Conv1D layers have, so that only its class tells."""
    return _MAYBE_CONV1D.search(name) is not None


def packs_experts(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor holds the matrices of several experts, one after another."""
    return len(shape) == 3 and "expert" in name


def packs_biases(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor of two axes is no matrix: the biases of several experts, one after another."""
    return len(shape) == 2 and "expert" in name and name.endswith("bias")


def holds_matrices(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor has rows and columns: a matrix, or packed experts, each a matrix of its own."""
    return packs_experts(name, shape) or is_matrix(name, shape)


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor is one matrix."""
    return len(shape) == 2 and has_inputs(name, shape)


def has_inputs(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor's outputs are sums over inputs: of a matrix, packed experts, or a convolution."""
    return len(shape) > 1 and not packs_biases(name, shape)


def guess_input_axis(name: str, shape: Sequence[int]) -> int | None:
    """Return which axis of a tensor's matrices its inputs number by its name: 1, of embeddings 0; None if both may."""
    if len(shape) == 2 and kind_of(name) == "embeddings":
        return 0
    return None if packs_experts(name, shape) or (len(shape) == 2 and may_be_transposed(name)) else 1


def find_transposed(base: Checkpoint, weights: Sequence[str]) -> dict[str, bool]:
    """Tell for each weight whether it is stored as (in, out).

    Args:
        base: the base.
        weights: names of its matrices, or of packed experts.

    Returns:
        Weight -> whether it is, for those that a module of a known kind holds; empty where no config.json describes
        the base's modules.
    """
    return _ask_modules(base, weights, _tell)


def find_told_axes(base: Checkpoint, weights: Sequence[str]) -> dict[str, int]:
    """Tell which of a weight's last two axes its inputs number: 1, of a Conv1D 0, of embeddings, by token, 0.

    Returns:
        Weight -> axis, for those of `find_transposed`.
    """
    return _ask_modules(base, weights, _tell_axis)


def _ask_modules(
    base: Checkpoint, weights: Sequence[str], ask: Callable[[torch.nn.Module, int], T | None]
) -> dict[str, T]:
    """Ask the base's modules, each with its parameter's number of axes; None is no answer."""
    model = build_on_meta(base.path) if base.path.is_dir() else None
    if model is None:
        return {}
    known: dict[str, T] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            told = None if parameter is None else ask(module, parameter.ndim)
            if told is not None:
                known[f"{path}.{leaf}" if path else leaf] = told
    stored = architecture_of(model).name_map.match(weights, known).found
    return {weight: known[name] for weight, name in stored.items()}


def _tell(module: torch.nn.Module, n_axes: int) -> bool | None:
    """Tell of a module of transformers' own code whether a parameter of so many axes is (in, out), None if unknown."""
    if n_axes == 2:
        return is_conv1d(module)
    told = getattr(module, "is_transposed", None)  # as transformers marks classes of experts, but not all of them
    return told if isinstance(told, bool) else None


def _tell_axis(module: torch.nn.Module, n_axes: int) -> int | None:
    if n_axes == 2 and isinstance(module, torch.nn.Embedding):
        return 0
    is_stored = _tell(module, n_axes)
    return None if is_stored is None else 0 if is_stored else 1


def find_input_axes(base: Checkpoint, matrices: Sequence[str]) -> dict[str, int]:
    """Return for each matrix which of its two axes its inputs number, as the base's modules tell, or else its name.

    Raises:
        CheckpointError: a name that may be a Conv1D's, and nothing describes the base's modules.
    """
    told = find_told_axes(base, matrices)
    axes: dict[str, int] = {}
    for name in matrices:
        axis = told[name] if name in told else guess_input_axis(name, base.spec(name).shape)
        if axis is None:
            raise CheckpointError(
                f"tensor {name!r}: which axis is its input is told by the model's config.json, which is not at hand"
            )
        axes[name] = axis
    return axes
