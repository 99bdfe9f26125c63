"""Importance to several tasks at once, and its control, a random region of the same size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from graft.files.location import locate
from graft.patch.mask import Mask
from graft.scores.random import draw
from graft.specs.importance import ImportanceSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope
from graft.train.importance.importance_weights import select_core
from graft.train.importance.measuring import Importance, measure_importance


def measure_general(
    model: str | Path, tasks: Sequence[Task], config: ImportanceSpec, runtime: Runtime = DEFAULT
) -> Importance:
    """Return the mean of a model's importance over tasks, one or more; two tables of fp32 scores are held.

    Args:
        model, config: as in `measure_importance`; its method takes data.
        tasks: whose training examples show what matters, all with the same weight.
        runtime: where and in what precision.

    Raises:
        ConfigError, CheckpointError, DataError: as of `measure_importance`.
    """
    measure = partial(measure_importance, model, config=config, device=runtime.device, dtype=runtime.dtype)
    importance = measure(tasks[0])
    sums = {name: score().clone() for name, score in importance.scores.items()}
    for task in tasks[1:]:
        others = measure(task).scores
        for name in sums:
            sums[name] += others[name]()
    means = {name: partial(torch.Tensor.clone, total.div_(len(tasks))) for name, total in sums.items()}
    return dataclasses.replace(importance, scores=means)


def draw_region(model: str | Path, size: int | float, scope: str, seed: int) -> Mask:
    """Draw a region uniformly at random: so many weights, or that share of those in scope.

    Raises:
        BudgetError: the size keeps no weight, or more than there are.
        ConfigError, CheckpointError: an input is refused; the line says which and why.
    """
    checkpoint = Checkpoint.open(locate(model).path)
    weights = {name: checkpoint.read(name) for name in Scope(scope).names(checkpoint)}
    n = sum(weight.numel() for weight in weights.values())
    scores = {name: partial(draw, name, weight.numel(), seed) for name, weight in weights.items()}
    return select_core(scores, weights, size / n if isinstance(size, int) else size)
