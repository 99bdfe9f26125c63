"""MultitaskExperiment: a recipe of several tasks on one base, its metrics over seeds, and its plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.compose.task_overlap import TaskOverlap, measure_task_overlap
from graft.errors import ConfigError
from graft.recipes.budgets import Asked
from graft.recipes.content import Used
from graft.recipes.experiment import Experiment, Summary
from graft.recipes.multitask.seed import SHARED, run_seed
from graft.recipes.multitask.seed_run import MultitaskRun
from graft.recipes.multitask.summary import agree, summarize
from graft.recipes.multitask.table import tabulate_run
from graft.recipes.seed_run import SeedContext, load_capped, refuse_apart, train_config
from graft.results.layout import patch_path
from graft.results.seeds import MultitaskSeed
from graft.specs.multitask import MultitaskSpec
from graft.tasks.task import Task


@dataclass(frozen=True)
class MultitaskExperiment(Experiment):
    """A recipe with its tasks.

    Attributes:
        recipe: its typed block.
        learned: the tasks that every method is about.
        beside: the tasks that are tuned and localized for the overlap alone.
    """

    recipe: MultitaskSpec
    learned: tuple[Task, ...]
    beside: tuple[Task, ...]

    @classmethod
    def load(cls, path: Path, recipe: MultitaskSpec) -> MultitaskExperiment:
        """Read the tasks.

        Raises:
            ConfigError: naming file and key.
        """
        learned, beside = (
            tuple(load_capped(path.parent / file, recipe.train, recipe.shots, recipe.max_length) for file in files)
            for files in (recipe.tasks, recipe.beside)
        )
        names = [task.spec.name for task in (*learned, *beside)]
        if len(set(names)) != len(names):
            raise ConfigError(f"{path}: two tasks have one name: {', '.join(names)}")
        for changes in [how.train for how in recipe.sequences.values()] + [mix.train for mix in recipe.mixes.values()]:
            train_config(learned[0], changes)  # what is wrong in it is said before the first costly step
        refuse_apart(learned, f"{path}: tasks")  # every method is about one model for all tasks
        return cls(recipe, learned, beside)

    @property
    def used(self) -> Mapping[str, Sequence[Used]]:
        """The tasks, and those beside them."""
        groups = {"tasks": self.learned, "beside": self.beside}
        return {key: [(task, self.recipe.evaluate.limit) for task in tasks] for key, tasks in groups.items()}

    @property
    def files(self) -> Sequence[str]:
        """Their files."""
        return (*self.recipe.tasks, *self.recipe.beside)

    def list_budgets(self) -> Iterator[Asked]:
        """Return the budgets of the tasks' grafts, of the shared ones, of sequences and of unions."""
        recipe, first = self.recipe, self.learned[0]
        for task in self.tasks:
            yield "localize", recipe.localize, task.spec.train
        mixes = [train_config(first, mix.train) for mix in recipe.mixes.values()]
        yield from (("shared", recipe.shared, training) for training in mixes[:1])
        for name, how in recipe.sequences.items():
            grafted = recipe.localize.at(how.density) if how.graft else None
            yield f"sequences.{name}", grafted, train_config(first, how.train)
        for name, union in recipe.unions.items():
            if not union.shared:
                yield f"unions.{name}", recipe.localize.at(union.density), first.spec.train
            elif recipe.shared is not None:
                yield f"unions.{name}", recipe.shared.at(union.density), mixes[0]

    def at(self, context: SeedContext) -> MultitaskRun:
        """Return one seed at work."""
        groups = self.learned, self.beside
        learned, beside = (tuple(task.with_seed(context.seed) for task in group) for group in groups)
        return MultitaskRun(self.recipe, learned, beside, context=context)

    def run_seed(self, context: SeedContext) -> MultitaskSeed:
        """Run one seed."""
        return run_seed(self.at(context))

    def summarize(self, seeds: Sequence[MultitaskSeed], out: Path) -> Summary:
        """Return every method's metrics, and how far the regions of tasks overlap."""
        metrics = summarize(seeds)
        overlap = self._measure_overlap([task.spec.name for task in self.tasks], "", out)
        agreement = agree(overlap, seeds)
        more: dict[str, Any] = {"overlap": overlap.to_json()}
        if self.recipe.shared is not None:
            shared = self._measure_overlap([task.spec.name for task in self.learned], SHARED, out)
            more["shared_overlap"] = shared.to_json()
        return Summary(
            metrics=metrics,
            tables=tabulate_run(metrics, seeds, overlap, agreement),
            expected=metrics,
            more=more | {"agreement": agreement},
        )

    def _measure_overlap(self, names: Sequence[str], prefix: str, out: Path) -> TaskOverlap:
        return measure_task_overlap(
            {name: [patch_path(out, prefix + name, seed) for seed in self.recipe.seeds] for name in names},
            base=self.recipe.base,
        )
