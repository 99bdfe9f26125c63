"""The memory that a localisation will take, from headers and config alone."""

from __future__ import annotations

from pathlib import Path

import torch

from graft.localize.budget import resolve_budget
from graft.localize.spec import LocalizeSpec
from graft.tasks.activations import Kept, estimate_activations
from graft.tasks.head import find_dtype
from graft.tasks.placement import find_device
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.location import locate
from graft.tensors.memory import MemoryPlan, Part
from graft.tensors.scope import Scope

CANDIDATE = 64  # bytes: index three times, movement, both values, gradient, sum, scores, and their order
WAITING = 48  # bytes per candidate of a micro-batch while the best are sought
SCORED = 16  # bytes per weight of the one tensor whose scores are looked at
_OF_CANDIDATES = ("attribution", "taylor", "learned")
_DENSE = {"attribution": 4, "taylor": 4, "learned": 4, "fisher": 4, "talos": 4, "paper": 8}  # bytes per weight in scope


def plan_localization(
    base: str | Path,
    task: Task,
    config: LocalizeSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
) -> MemoryPlan:
    """What `localize_skill` with the same arguments will take; no weight is read.

    Raises:
        CheckpointError, ConfigError, BudgetError: it would be refused.
    """
    path = locate(base).path
    checkpoint, scope = Checkpoint.open(path), Scope(config.scope)
    sizes = [checkpoint.spec(name).numel for name in scope.names(checkpoint)]
    k = resolve_budget(checkpoint.n_parameters, config.density, config.budget)
    parts = []
    if config.method in _DENSE:  # those that run the model
        kind = live_dtype(checkpoint, dtype)
        kept = estimate_activations(path, task.spec, config.batch_size, kind, scope.holds)
        parts += [
            weights_part(checkpoint, kind),
            Part("largest gradient", max(sizes) * kind.itemsize),
            activations_part(kept, gradient_checkpointing=gradient_checkpointing),
        ]
    return MemoryPlan.of(find_device(device), [*parts, *_scores_parts(config, k, sizes)])


def weights_part(checkpoint: Checkpoint, dtype: torch.dtype) -> Part:
    """The live model's weights."""
    names = set(checkpoint.names) - checkpoint.aliases
    return Part("weights", sum(checkpoint.spec(name).numel for name in names) * dtype.itemsize)


def activations_part(kept: Kept | None, *, gradient_checkpointing: bool) -> Part:
    """What a batch of the longest inputs keeps for the way back, where it could be estimated."""
    what = "activations, longest inputs"
    if kept is None:
        return Part(what, None)
    return Part(what, kept.with_checkpointing if gradient_checkpointing else kept.total)


def live_dtype(checkpoint: Checkpoint, dtype: str) -> torch.dtype:
    """The dtype in which a model will be loaded: the asked for, or that of the checkpoint's largest tensor."""
    asked = find_dtype(dtype)
    if isinstance(asked, torch.dtype):
        return asked
    largest = max(checkpoint.parameters, key=lambda name: checkpoint.spec(name).numel)
    return TORCH_DTYPES[checkpoint.spec(largest).dtype]


def _scores_parts(config: LocalizeSpec, k: int, sizes: list[int]) -> list[Part]:
    if config.method in _OF_CANDIDATES and not config.exact_scores:
        of_one = min(config.candidates.multiple * k, sum(sizes))
        most = min(config.candidates.micro_batches * of_one, sum(sizes))
        return [Part(f"candidates (at most {most:,})", CANDIDATE * most + WAITING * of_one, "host")]
    dense = Part("a number per weight in scope", _DENSE.get(config.method, 0) * sum(sizes), "host")
    return [dense, Part("scores of the largest tensor", SCORED * max(sizes) + WAITING * min(k, sum(sizes)), "host")]
