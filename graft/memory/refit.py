"""Plan the memory that `graft refit` will take, from headers and config alone."""

from __future__ import annotations

from dataclasses import replace

from graft.memory.activations import estimate_activations
from graft.memory.localize import allocate_scores, count_entries
from graft.memory.model import allocate_activations, allocate_weights
from graft.memory.plan import Allocation, MemoryPlan
from graft.refit.support import is_chosen_by_loss, localization_of
from graft.sources.opening import Model, open_model
from graft.specs.refit import RefitSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.placement import find_device
from graft.tasks.task import Task
from graft.tensors.scope import Scope
from graft.train.master_weights import loaded_dtype

ENTRY = 64  # bytes: index three times, base, value, mean, gradient and its sum, two moments


def plan_refit(
    base: Model,
    tuned: Model,
    task: Task,
    config: RefitSpec,
    *,
    k: int | None = None,
    runtime: Runtime = DEFAULT,
) -> MemoryPlan:
    """Plan what `refit_skill` with the same arguments will take; no weight is read.

    Args:
        base, tuned, task, config, runtime: as in `refit_skill`.
        k: entries of a support that is given.

    Raises:
        CheckpointError, ConfigError, BudgetError: the refit would be refused.
    """
    opened = open_model(base)
    checkpoint, scope, path = opened.checkpoint, Scope(config.scope), opened.checkpoint.path
    sizes = [checkpoint.spec(name).numel for name in scope.names(checkpoint)]
    kind = loaded_dtype(checkpoint, runtime.dtype)
    n_entries = k or count_entries(checkpoint, config)
    saved = estimate_activations(path, task.spec, config.batch_size, kind, scope.holds)
    resident = not task.spec.head.entry.has_labels  # of a head that predicts tokens the teacher stays
    teacher = open_model(tuned, base=opened).checkpoint
    parts = [
        allocate_weights(checkpoint, kind),
        Allocation("the tuned model's weights", teacher.n_parameters * kind.itemsize if resident else 0),
        Allocation("largest gradient", max(sizes) * kind.itemsize),
        allocate_activations(saved, gradient_checkpointing=runtime.gradient_checkpointing),
        *_allocate_support(config, k, n_entries, sizes),
        Allocation("entries and their optimizer", ENTRY * n_entries, "host"),
    ]
    return MemoryPlan.of(find_device(runtime.device), parts)


def _allocate_support(config: RefitSpec, k: int | None, n_entries: int, sizes: list[int]) -> list[Allocation]:
    """Return what the choice of entries takes: nothing where they are given, unless others are grown later on."""
    if k is None and not is_chosen_by_loss(config):
        how = localization_of(config, n_entries)
        return allocate_scores(replace(how, exact_scores=how.exact_scores or how.has_lines), n_entries, sizes)
    is_dense = k is None or config.rounds > 1
    return [Allocation("a gradient per weight in scope", 4 * sum(sizes) if is_dense else 0, "host")]
