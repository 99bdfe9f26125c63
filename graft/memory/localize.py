"""Plan the memory that `graft localize` will take, from headers and config alone."""

from __future__ import annotations

import dataclasses

from graft.localize.budget import resolve_budget
from graft.localize.lines import count_at_most, find_budget, find_codes
from graft.localize.localization import pick_tensors
from graft.localize.registry import LOCALIZATION_METHODS
from graft.memory.activations import estimate_activations
from graft.memory.model import allocate_activations, allocate_weights
from graft.memory.plan import Allocation, MemoryPlan
from graft.sources.opening import Model, open_model
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.placement import find_device
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope
from graft.tensors.transposed import is_matrix
from graft.train.master_weights import loaded_dtype

CANDIDATE = 64  # bytes: index three times, delta, both values, gradient, sum, scores, and their order
PENDING = 48  # bytes per candidate of a micro-batch while the best are selected


def plan_localization(
    base: Model,
    task: Task,
    config: LocalizeSpec,
    runtime: Runtime = DEFAULT,
    *,
    measured: bool = False,
) -> MemoryPlan:
    """Plan what `localize_skill` with the same arguments will take; no weight is read.

    With `measured`, what `graft.evaluate.kept_gain` takes afterwards is counted too: one model without gradients.

    Raises:
        CheckpointError, ConfigError, BudgetError: the localization would be refused.
    """
    checkpoint, scope = open_model(base).checkpoint, Scope(config.scope)
    sizes = [checkpoint.spec(name).numel for name in scope.names(checkpoint)]
    k = count_entries(checkpoint, config)
    if config.has_lines:
        config = dataclasses.replace(config, exact_scores=True)
    parts = []
    method = LOCALIZATION_METHODS[config.method]
    if method.needs_data and not method.forward_only:  # those that take gradients
        kind = loaded_dtype(checkpoint, runtime.dtype)
        saved = estimate_activations(checkpoint.path, task.spec, config.batch_size, kind, scope.holds)
        parts += [
            allocate_weights(checkpoint, kind),
            Allocation("largest gradient", max(sizes) * kind.itemsize),
            allocate_activations(saved, gradient_checkpointing=runtime.gradient_checkpointing),
        ]
    elif measured or method.needs_data:
        parts.append(allocate_weights(checkpoint, loaded_dtype(checkpoint, runtime.dtype)))
    return MemoryPlan.of(find_device(runtime.device), [*parts, *allocate_scores(config, k, sizes)])


def count_entries(checkpoint: Checkpoint, config: LocalizeSpec | RefitSpec) -> int:
    """Return how many entries the settings ask for; of whole lines, how many they can have at most.

    Raises:
        BudgetError: none.
        ConfigError: lines of a scope without matrices.
        CheckpointError: nothing tells which axis of a matrix is its input.
    """
    if not config.has_lines:
        return resolve_budget(checkpoint.n_parameters, config.density, config.budget)
    names = pick_tensors(checkpoint, Scope(config.scope).names(checkpoint), is_matrix, config.scope)
    specs, codes = {name: checkpoint.spec(name) for name in names}, find_codes(checkpoint, names, str(config.structure))
    return count_at_most(find_budget(checkpoint.n_parameters, config), specs, codes)


def allocate_scores(config: LocalizeSpec, k: int, sizes: list[int]) -> list[Allocation]:
    """Return what the scores of a method take, of k entries from tensors of these sizes."""
    method = LOCALIZATION_METHODS[config.method]
    if method.of_candidates and not config.exact_scores:
        per_batch = min(config.candidates.multiple * k, sum(sizes))
        most = min(config.candidates.micro_batches * per_batch, sum(sizes))
        return [Allocation(f"candidates (at most {most:,})", CANDIDATE * most + PENDING * per_batch, "host")]
    dense = Allocation("a number per weight in scope", method.bytes_per_weight * sum(sizes), "host")
    return [
        dense,
        Allocation(
            "scores of the largest tensor",
            method.bytes_per_scored * max(sizes) + PENDING * min(k, sum(sizes)),
            "host",
        ),
    ]
