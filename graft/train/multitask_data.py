"""Heads and examples of one or several tasks over one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from graft.specs.runtime import Runtime
from graft.tasks.examples import Example
from graft.tasks.head import Head, spread_head
from graft.tasks.sharing import share_model
from graft.tasks.task import Task

Tasks = Task | Sequence[Task]


@dataclass(frozen=True, eq=False)
class MultiTaskData:
    """The data of one or several tasks that are trained at once, each with its head over the common model.

    Attributes:
        heads: one per task, all with the same model.
        train, validation: the examples of each.
    """

    heads: tuple[Head, ...]
    train: tuple[list[Example], ...]
    validation: tuple[list[Example], ...]

    @classmethod
    def open(
        cls, path: Path, tasks: Sequence[Task], runtime: Runtime, seed: int, products: torch.dtype | None = None
    ) -> MultiTaskData:
        """Read the examples, then load the model; the errors are those of `spread_head`, which takes `products`.

        A head for other labels is replaced by a new one.
        """
        train, validation = ([read(task) for task in tasks] for read in (Task.train_examples, Task.validation_examples))
        head = spread_head(path, tasks[0].spec, runtime, seed=seed, renew=True, products=products)
        heads = (head, *(share_model(head, task.spec) for task in tasks[1:]))
        for own, *splits in zip(heads, train, validation, strict=True):
            for name, split in zip(("train", "validation"), splits, strict=True):
                own.inspect(split, name)
        return cls(heads, tuple(train), tuple(validation))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of training examples of each task."""
        return tuple(map(len, self.train))

    def validate(self) -> float:
        """Measure the accuracy on validation, the mean over tasks; NaN where an output is not finite."""
        accuracies = [
            head.accuracy(rows, label="validation") for head, rows in zip(self.heads, self.validation, strict=True)
        ]
        return sum(accuracies) / len(accuracies)


def list_tasks(tasks: Tasks) -> list[Task]:
    """Return one task or several as a list."""
    return [tasks] if isinstance(tasks, Task) else list(tasks)
