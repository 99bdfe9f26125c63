"""The memory that `graft localize` will take, from headers and config alone."""

from __future__ import annotations

from pathlib import Path

from graft.files.location import locate
from graft.localize.budget import resolve_budget
from graft.memory.activations import estimate_activations
from graft.memory.model import allocate_activations, allocate_weights, live_dtype
from graft.memory.plan import Allocation, MemoryPlan
from graft.specs.localize import LocalizeSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.placement import find_device
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
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
    runtime: Runtime = DEFAULT,
) -> MemoryPlan:
    """Plan what `localize_skill` with the same arguments will take; no weight is read.

    Raises:
        CheckpointError, ConfigError, BudgetError: it would be refused.
    """
    path = locate(base).path
    checkpoint, scope = Checkpoint.open(path), Scope(config.scope)
    sizes = [checkpoint.spec(name).numel for name in scope.names(checkpoint)]
    k = resolve_budget(checkpoint.n_parameters, config.density, config.budget)
    parts = []
    if config.method in _DENSE:  # those that run the model
        kind = live_dtype(checkpoint, runtime.dtype)
        saved = estimate_activations(path, task.spec, config.batch_size, kind, scope.holds)
        parts += [
            allocate_weights(checkpoint, kind),
            Allocation("largest gradient", max(sizes) * kind.itemsize),
            allocate_activations(saved, gradient_checkpointing=runtime.gradient_checkpointing),
        ]
    return MemoryPlan.of(find_device(runtime.device), [*parts, *_scores_parts(config, k, sizes)])


def _scores_parts(config: LocalizeSpec, k: int, sizes: list[int]) -> list[Allocation]:
    if config.method in _OF_CANDIDATES and not config.exact_scores:
        of_one = min(config.candidates.multiple * k, sum(sizes))
        most = min(config.candidates.micro_batches * of_one, sum(sizes))
        return [Allocation(f"candidates (at most {most:,})", CANDIDATE * most + WAITING * of_one, "host")]
    dense = Allocation("a number per weight in scope", _DENSE.get(config.method, 0) * sum(sizes), "host")
    return [dense, Allocation("scores of the largest tensor", SCORED * max(sizes), "host")]
