"""MultitaskRun: one seed of a recipe of several tasks at work, with the few things that every method does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from graft.patch.skill_patch import Patch
from graft.recipes.seed_run import Model, SeedRun, measure_examples
from graft.specs.localize import LocalizeSpec
from graft.specs.multitask import MultitaskSpec
from graft.tasks.head import Head
from graft.tasks.task import Task

Metrics = dict[str, dict[str, float]]  # task -> accuracy, ece, nll, n


@dataclass(frozen=True)
class MultitaskRun(SeedRun):
    """Seed at work.

    Attributes:
        recipe: the whole recipe.
        tasks, beside: under this seed.
    """

    recipe: MultitaskSpec
    tasks: tuple[Task, ...]
    beside: tuple[Task, ...]

    @cached_property
    def tuned(self) -> dict[str, Path]:
        """Task -> the checkpoint tuned on it alone, those beside the others among them."""
        return {task.spec.name: self.train(self.recipe.base, [task]) for task in (*self.tasks, *self.beside)}

    def localize(self, base: Model, tuned: Path, task: Task, config: LocalizeSpec | None = None) -> Patch:
        """Return a task's graft, by the recipe's `localize` block where no other is given."""
        return self.cut(base, tuned, task, config or self.recipe.localize)

    def open(self, model: Model, tasks: Sequence[Task] = ()) -> list[Head]:
        """Open a model once, with the head of every task of the recipe, or of those given."""
        return self.open_heads(model, tasks or self.tasks)

    def measure(self, heads: Sequence[Head], only: int | None = None) -> Metrics:
        """Return the metrics on the test split of every task, or of the first few."""
        pairs = list(zip(heads, self.tasks, strict=True))[:only]
        return {task.spec.name: self.measure_task(head, task) for head, task in pairs}

    def measure_task(self, head: Head, task: Task) -> dict[str, float]:
        """Return the metrics of one model on one task's test split."""
        evaluate = self.recipe.evaluate
        return measure_examples(head, task.test_examples(evaluate.limit), evaluate.batch_size, task.spec.name)

    def validate(self, heads: Sequence[Head]) -> float:
        """Return the mean accuracy over tasks on validation, by which settings are chosen."""
        size = self.recipe.evaluate.batch_size
        pairs = zip(heads, self.tasks, strict=True)
        each = [head.accuracy(task.validation_examples(), batch_size=size, label="validation") for head, task in pairs]
        return sum(each) / len(each)
