"""Experiment: what the one run loop asks of each kind of recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.recipes.budgets import Asked
from graft.recipes.content import Used
from graft.recipes.seed_run import SeedContext
from graft.results.models import Model
from graft.results.tables import Block
from graft.tasks.task import Task

Metrics = Mapping[str, Mapping[str, Any]]  # model or method -> metric -> "mean", "half", "values"


@dataclass(frozen=True)
class Summary:
    """Summary of all seeds of an experiment.

    Attributes:
        metrics: means with intervals, as JSON.
        tables: paragraphs and tables for a person.
        expected: what a recipe's `expect` may name: model -> metric -> its mean and more.
        models: what each model is, where models are measured.
        more: further keys of the results, as JSON.
        files: the files to look at first, beside tables and plots.
    """

    metrics: Mapping[str, Any]
    tables: Sequence[Block]
    expected: Metrics
    models: Mapping[str, Model] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()


class Experiment(ABC):
    """A recipe with its tasks.

    Attributes:
        recipe: its typed block, which has a name, a base, seeds and `expect`.
    """

    recipe: Any

    @classmethod
    @abstractmethod
    def load(cls, path: Path, recipe: Any) -> Experiment:
        """Read the tasks of a recipe that lies at `path`.

        Raises:
            ConfigError: naming file and key.
        """

    @property
    @abstractmethod
    def used(self) -> Mapping[str, Sequence[Used]]:
        """Key of the recipe -> the tasks that it names, and how many rows of their test splits are measured."""

    @property
    @abstractmethod
    def files(self) -> Sequence[str]:
        """The TASK files, relative to the recipe."""

    @property
    def tasks(self) -> list[Task]:
        """Tasks under every key."""
        return [task for used in self.used.values() for task, _ in used]

    def refuse_dtype(self, dtype: str) -> None:
        """Refuse a dtype in which the experiment cannot run; any goes where a kind does not say otherwise.

        Raises:
            ConfigError: naming the dtype and why.
        """
        del dtype

    def refuse_data(self) -> None:  # noqa: B027 - few kinds have such rows
        """Refuse rows that the experiment cannot use, beside those that no kind can (`graft.recipes.splits`).

        Raises:
            DataError, ConfigError: naming the split or the key, and why.
        """

    @abstractmethod
    def list_budgets(self) -> Iterable[Asked]:
        """Return the budgets that are refused before the first training where nothing can meet them."""

    @abstractmethod
    def run_seed(self, context: SeedContext) -> Any:
        """Run one seed; return its results (`graft.results.seeds`)."""

    @abstractmethod
    def summarize(self, seeds: Sequence[Any], out: Path) -> Summary:
        """Return what all seeds show together; their patches lie in the run's folder `out`."""


class OneTaskExperiment(Experiment):
    """A recipe of one task, which its key `task` names.

    Attributes:
        task: the task.
    """

    task: Task

    @property
    def used(self) -> Mapping[str, Sequence[Used]]:
        """The one task."""
        return {"task": [(self.task, self.recipe.evaluate.limit)]}

    @property
    def files(self) -> Sequence[str]:
        """Its file."""
        return [self.recipe.task]
