"""Plan the memory that `graft rollback` will take, from headers and config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graft.localize.budget import resolve_budget
from graft.localize.rollback import open_reversed
from graft.memory.activations import estimate_activations
from graft.memory.localize import allocate_scores
from graft.memory.model import allocate_activations, allocate_weights
from graft.memory.plan import Allocation, MemoryPlan
from graft.memory.refit import ENTRY
from graft.sources.opening import Model, open_model
from graft.specs.rollback import RollbackSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.placement import find_device
from graft.tasks.task import Task
from graft.tensors.scope import Scope
from graft.train.master_weights import loaded_dtype


def plan_rollback(
    base: Model, tuned: Model, tasks: Sequence[Task], config: RollbackSpec, runtime: Runtime = DEFAULT
) -> MemoryPlan:
    """Plan what `roll_back` will take at the largest density that it may try; no weight is read.

    Args:
        base: the base, which must fit; it is of the tuned model's size, and gone before that is loaded.
        tuned: the tuned model.
        tasks: the keep task and the restore tasks.
        config, runtime: as for `roll_back`.

    Raises:
        CheckpointError, MismatchError, ConfigError, BudgetError: the rollback would be refused.
    """
    opened, scope = open_model(base), Scope(config.scope)
    checkpoint = open_reversed(opened.checkpoint, open_model(tuned, base=opened).checkpoint).base
    path = checkpoint.path
    sizes = [checkpoint.spec(name).numel for name in scope.names(checkpoint)]
    k = resolve_budget(checkpoint.n_parameters, max(config.densities, default=0.0), config.budget)
    kind = loaded_dtype(checkpoint, runtime.dtype)
    parts = [allocate_weights(checkpoint, kind)]
    if config.takes_gradients:
        of_tasks = [estimate_activations(path, task.spec, config.batch_size, kind, scope.holds) for task in tasks]
        activations = [
            allocate_activations(saved, gradient_checkpointing=runtime.gradient_checkpointing) for saved in of_tasks
        ]
        unknown = next((item for item in activations if item.bytes is None), None)
        parts += [
            Allocation("largest gradient", max(sizes) * kind.itemsize),
            unknown or max(activations, key=lambda item: item.bytes or 0),
        ]
    if config.is_refit:
        parts += [
            Allocation("a gradient per weight in scope", 4 * sum(sizes), "host"),
            Allocation("entries and their optimizer", ENTRY * k, "host"),
        ]
        return MemoryPlan.of(find_device(runtime.device), parts)
    localize = config.at(k)
    searched = replace(config.candidates, micro_batches=config.candidates.micro_batches * len(tasks))
    return MemoryPlan.of(
        find_device(runtime.device), [*parts, *allocate_scores(replace(localize, candidates=searched), k, sizes)]
    )
