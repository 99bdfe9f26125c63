"""Plan the memory that `graft train` will take, from headers and config alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from graft.files.location import locate
from graft.memory.activations import estimate_activations
from graft.memory.model import allocate_activations, allocate_weights
from graft.memory.plan import Allocation, MemoryPlan
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.specs.runtime import DEFAULT, Runtime
from graft.specs.train import Precision, TrainSpec
from graft.tasks.placement import find_device
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope
from graft.train.localizable import check_density
from graft.train.manifest import read_importance
from graft.train.master_weights import loaded_dtype, widens
from graft.train.protection.guard import FEW
from graft.train.protection.protected_set import ProtectedSet, count_free

INDEX = 8  # bytes
SUMMED = 4
UPDATE_COPIES = 4  # copies of one tensor during its update


def plan_training(
    base: str | Path,
    task: Task,
    config: TrainSpec | None = None,
    *,
    protect: Sequence[Patch | Mask] = (),
    unprotect: Sequence[Patch | Mask] = (),
    runtime: Runtime = DEFAULT,
) -> MemoryPlan:
    """Plan what `train_task` with the same arguments will take.

    No weight is read but those at the whole tensors of patches to protect, and a file of importance weights.

    Raises:
        CheckpointError, ConfigError, BudgetError: the training would be refused.
    """
    config = config or task.spec.train
    path = locate(base).path
    checkpoint, scope = Checkpoint.open(path), Scope(config.scope)
    names, core = scope.names(checkpoint), ProtectedSet(protect, unprotect)
    check_density(checkpoint, config, core)
    sizes = [checkpoint.spec(name).numel for name in names]
    narrow = loaded_dtype(checkpoint, runtime.dtype)
    # autocast keeps no more than the same pass in fp32 does
    kind = torch.float32 if widens(config.precision, narrow) else narrow
    saved = estimate_activations(path, task.spec, config.examples_at_once, kind, scope.holds)
    has_adam = config.optimizer == "adamw" or config.localizable is not None
    has_l1 = config.l1 > 0 or config.localizable is not None
    by_gradient = config.localizable is not None and config.localizable.support == "gradient"
    protection = _Protection.of(checkpoint, names, core)
    parts = [
        allocate_weights(checkpoint, kind),
        # cast for a step's products, and for each validation
        Allocation("rounded weights", allocate_weights(checkpoint, narrow).bytes if kind != narrow else 0),
        # a sum of gradients by which few weights are chosen is freed before any other is made
        Allocation("gradients", sum(sizes) * max(kind.itemsize, SUMMED if by_gradient else 0)),
        Allocation("optimizer state", 2 * protection.optimized * kind.itemsize if has_adam else 0),
        Allocation(
            "update of the largest tensor", UPDATE_COPIES * max(sizes) * kind.itemsize if has_l1 or has_adam else 0
        ),
        *protection.allocations(kind.itemsize),
        Allocation(
            "mean of the weights",
            max(SUMMED, kind.itemsize) * sum(sizes) if config.average and config.localizable is None else 0,
        ),
        *_importance_parts(config, path, sum(sizes), kind.itemsize),
        allocate_activations(saved, gradient_checkpointing=runtime.gradient_checkpointing),
    ]
    return MemoryPlan.of(find_device(runtime.device), parts)


def plan_precisions(
    base: str | Path,
    task: Task,
    config: TrainSpec | None = None,
    *,
    runtime: Runtime = DEFAULT,
    **regions: Sequence[Patch | Mask],
) -> dict[Precision, MemoryPlan]:
    """Plan a training in each precision; in its own alone where all are the same, since it loads a base in fp32.

    The arguments and errors are those of `plan_training`; `regions` are its `protect` and `unprotect`.
    """
    config = config or task.spec.train
    narrow = loaded_dtype(Checkpoint.open(locate(base).path), runtime.dtype)
    names = get_args(Precision) if widens("mixed", narrow) else (config.precision,)
    return {
        name: plan_training(base, task, dataclasses.replace(config, precision=name), runtime=runtime, **regions)
        for name in names
    }


def _importance_parts(config: TrainSpec, base: Path, n_trained: int, width: int) -> list[Allocation]:
    """Return the memory of a record (fp32 sums and copies of the weights) and of a penalty (its weights and anchors).

    Anchors are read from the base's file, and take none, where every entry of a tensor has one.
    """
    importance = read_importance(config, base)
    parts = []
    if config.record is not None:
        pulled = config.regularize is not None and config.regularize.step == "gradient"
        starts = width if pulled and config.record.every > 1 else 0  # of recorded steps, for the penalty's gradient
        parts.append(Allocation("record of importance", (4 + width + starts) * n_trained))
    if importance is not None:
        omega = sum(values.nbytes for values in importance.omega.values())
        mask = importance.mask
        n_anchored = sum(len(mask[name]) for name in mask if len(mask[name]) < mask.specs[name].numel)
        parts += [Allocation("importance", omega + (4 + width) * n_anchored)]
    return parts


@dataclass(frozen=True)
class _Protection:
    """Counts of the entries that `Protection` stores, for an optimizer that treats every entry by itself.

    Attributes:
        restored: protected entries whose values are stored and put back.
        compact: free entries of tensors in which only they are optimized.
        optimized: entries for which the optimizer has state.
    """

    restored: int
    compact: int
    optimized: int

    @classmethod
    def of(cls, base: Checkpoint, trained: Iterable[str], core: ProtectedSet) -> _Protection:
        """Count them for a core over the tensors that train; tensors that the base lacks are left to the training."""
        free = count_free(base, trained, core)
        sizes = {name: base.spec(name).numel for name in free}
        compact = {name for name, size in sizes.items() if free[name] / size < FEW}
        return cls(
            restored=sum(size - free[name] for name, size in sizes.items() if name not in compact),
            compact=sum(free[name] for name in compact),
            optimized=sum(free[name] if name in compact else size for name, size in sizes.items()),
        )

    def allocations(self, width: int) -> list[Allocation]:
        """Return the memory beside the model's; `width` is the bytes of one of its values."""
        return [
            Allocation("protected values and indices", (width + INDEX) * self.restored),
            Allocation("free values and indices", (width + INDEX) * self.compact),
        ]
