"""The memory that a fine-tuning will take, from headers and config alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graft.localize.planning import activations_part, live_dtype, weights_part
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tasks.activations import estimate_activations
from graft.tasks.placement import find_device
from graft.tasks.spec import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.location import locate
from graft.tensors.memory import MemoryPlan, Part
from graft.tensors.scope import Scope
from graft.train.localizable import refuse_unmet
from graft.train.protection.core import Core
from graft.train.protection.planning import ProtectionPlan
from graft.train.record import read_importance

PULLED = 4  # copies of one tensor while it is pulled towards the base


def plan_training(
    base: str | Path,
    task: Task,
    config: TrainSpec | None = None,
    *,
    protect: Sequence[Patch | Mask] = (),
    unprotect: Sequence[Patch | Mask] = (),
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
) -> MemoryPlan:
    """What `train_task` with the same arguments will take; no weight is read, but a file of importance is.

    Raises:
        CheckpointError, ConfigError, BudgetError: it would be refused.
    """
    config = config or task.spec.train
    path = locate(base).path
    checkpoint, scope = Checkpoint.open(path), Scope(config.scope)
    names, core = scope.names(checkpoint), Core(protect, unprotect)
    refuse_unmet(checkpoint, config, core)
    sizes = [checkpoint.spec(name).numel for name in names]
    kind = live_dtype(checkpoint, dtype)
    kept = estimate_activations(path, task.spec, config.batch_size, kind, scope.holds)
    adam = config.optimizer == "adamw" or config.localizable is not None
    pulls = config.l1 > 0 or config.localizable is not None
    protection = ProtectionPlan.of(checkpoint, names, core)
    parts = [
        weights_part(checkpoint, kind),
        Part("gradients", sum(sizes) * kind.itemsize),
        Part("optimizer state", 2 * protection.optimised * kind.itemsize if adam else 0),
        Part("update of the largest tensor", PULLED * max(sizes) * kind.itemsize if pulls or adam else 0),
        *protection.parts(kind.itemsize),
        *_importance_parts(config, path, sum(sizes), kind.itemsize),
        activations_part(kept, gradient_checkpointing=gradient_checkpointing),
    ]
    return MemoryPlan.of(find_device(device), parts)


def _importance_parts(config: TrainSpec, base: Path, n_trained: int, width: int) -> list[Part]:
    """What a record gathers, fp32 beside a copy of the weights; and what a penalty holds.

    Anchors stay in the base's file where every entry of a tensor has one.
    """
    importance = read_importance(config, base)
    parts = [Part("record of importance", (4 + width) * n_trained if config.record is not None else 0)]
    if importance is not None:
        omega = sum(values.nbytes for values in importance.omega.values())
        few = sum(
            len(importance.mask[name])
            for name in importance.mask
            if len(importance.mask[name]) < importance.mask.specs[name].numel
        )
        parts += [Part("importance", omega + (4 + width) * few)]
    return parts
