"""PlantedExperiment: a recipe of kind planted, and its metrics over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.recipes.budgets import Asked
from graft.recipes.content import Used
from graft.recipes.experiment import OneTaskExperiment, Summary
from graft.recipes.planted.seed import PlantedRun, run_seed
from graft.recipes.planted.summary import summarize, tabulate_cells, tabulate_seconds
from graft.recipes.seed_run import SeedContext, train_assignments, train_config
from graft.results.planted import PlantedSeed
from graft.results.tables import Block
from graft.specs.planted import PlantedSpec
from graft.tasks.task import Task


@dataclass(frozen=True)
class PlantedExperiment(OneTaskExperiment):
    """A recipe with its tasks.

    Attributes:
        drift: the task whose training is the drift.
    """

    recipe: PlantedSpec
    task: Task
    drift: Task

    @classmethod
    def load(cls, path: Path, recipe: PlantedSpec) -> PlantedExperiment:
        """Read the tasks, whose train blocks the recipe overrides key by key.

        Raises:
            ConfigError: naming file and key.
        """
        task = Task.load(path.parent / recipe.task, train_assignments(recipe.train))
        return cls(recipe, task, Task.load(path.parent / recipe.drift, train_assignments(recipe.drift_train)))

    @property
    def used(self) -> Mapping[str, Sequence[Used]]:
        """Both tasks; no test row of the drift's is measured."""
        return {**super().used, "drift": [(self.drift, 0)]}

    @property
    def files(self) -> Sequence[str]:
        """Their files."""
        return [self.recipe.task, self.recipe.drift]

    def list_budgets(self) -> list[Asked]:
        """Return the budget of every planted mask."""
        train = train_config(self.task, {"scope": self.recipe.localize.scope})
        return [("densities", self.recipe.localize.at(density), train) for density in self.recipe.densities]

    def run_seed(self, context: SeedContext) -> PlantedSeed:
        """Run one seed."""
        task, drift = (task.with_seed(context.seed) for task in (self.task, self.drift))
        return run_seed(PlantedRun(self.recipe, task, drift, context=context))

    def summarize(self, seeds: Sequence[PlantedSeed], out: Path) -> Summary:
        """Return what every method finds at every place of the ladder."""
        del out
        metrics = summarize(seeds)
        tables: list[Block] = []
        for metric, said in {
            "recall": "Share of the planted entries among as many that a method chooses, mean ± 95 % over seeds:",
            "area": "Area of that share over the logarithm of the budget, "
            f"{', '.join(f'{multiple:g}' for multiple in self.recipe.multiples)} times the planted entries:",
            "recovered_gain": "Gain of the graft of as many entries, 1 for the planted checkpoint without drift, test:",
        }.items():
            tables += [said, tabulate_cells(metrics, seeds[0], metric)]
        return Summary(metrics, [*tables, "Seconds a localization:", tabulate_seconds(metrics)], expected=metrics)
