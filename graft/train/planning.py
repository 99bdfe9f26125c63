"""The memory that a fine-tuning will take, from headers and config alone."""

from __future__ import annotations

from pathlib import Path

from graft.localize.planning import activations_part, live_dtype, weights_part
from graft.tasks.activations import estimate_activations
from graft.tasks.placement import find_device
from graft.tasks.spec import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.location import locate
from graft.tensors.memory import MemoryPlan, Part
from graft.tensors.scope import Scope

PULLED = 4  # copies of one tensor while it is pulled towards the base


def plan_training(
    base: str | Path,
    task: Task,
    config: TrainSpec | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
) -> MemoryPlan:
    """What `train_task` with the same arguments will take; no weight is read.

    Raises:
        CheckpointError, ConfigError: it would be refused.
    """
    config = config or task.spec.train
    path = locate(base).path
    checkpoint, scope = Checkpoint.open(path), Scope(config.scope)
    trained = [checkpoint.spec(name).numel for name in scope.names(checkpoint)]
    kind = live_dtype(checkpoint, dtype)
    kept = estimate_activations(path, task.spec, config.batch_size, kind, scope.holds)
    adam = config.optimizer == "adamw" or config.localizable is not None
    pulls = config.l1 > 0 or config.localizable is not None
    parts = [
        weights_part(checkpoint, kind),
        Part("gradients", sum(trained) * kind.itemsize),
        Part("optimizer state", 2 * sum(trained) * kind.itemsize if adam else 0),
        Part("update of the largest tensor", PULLED * max(trained) * kind.itemsize if pulls or adam else 0),
        activations_part(kept, gradient_checkpointing=gradient_checkpointing),
    ]
    return MemoryPlan.of(find_device(device), parts)
