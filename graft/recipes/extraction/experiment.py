"""ExtractionExperiment: a recipe about extraction, and its metrics over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import ConfigError
from graft.extraction.registry import EXTRACTION_METHODS
from graft.recipes.budgets import Asked
from graft.recipes.content import Used
from graft.recipes.experiment import OneTaskExperiment, Summary
from graft.recipes.extraction.seed import ExtractionRun, run_seed
from graft.recipes.extraction.summary import summarize, tabulate_methods, tabulate_run
from graft.recipes.seed_run import SeedContext, train_assignments
from graft.results.seeds import ExtractionSeed
from graft.results.tables import Block
from graft.specs.extraction import ExtractionSpec
from graft.tasks.examples import NONE_OF_THESE
from graft.tasks.task import Task


@dataclass(frozen=True)
class ExtractionExperiment(OneTaskExperiment):
    """A recipe with its task, and the task of other texts where it names one."""

    recipe: ExtractionSpec
    task: Task
    others: Task | None = None

    @classmethod
    def load(cls, path: Path, recipe: ExtractionSpec) -> ExtractionExperiment:
        """Read the task, whose train block the recipe's overrides key by key.

        Raises:
            ConfigError: naming file and key; or a head that has neither labels nor answers, or a layer of its own; or
                a method that fits to logits of labels, and a head without.
        """
        task = Task.load(path.parent / recipe.task, train_assignments(recipe.train))
        head = task.spec.head
        if not (head.entry.has_labels or head.entry.has_answers) or head.entry.own_layer is not None:
            raise ConfigError(
                f"{path}: extraction compares labels or answers by the base's own weights, and head kind "
                f"{head.kind} has {'a layer of its own' if head.entry.has_labels else 'no labels'}"
            )
        for name, _ in recipe.points():
            if EXTRACTION_METHODS[name].fits_logits and not head.entry.has_labels:
                raise ConfigError(f"{path}: methods: {name} fits to logits of labels, which {head.kind} has none of")
        others = None if recipe.other_texts is None else Task.load(path.parent / recipe.other_texts)
        return cls(recipe, task, others)

    @property
    def used(self) -> Mapping[str, Sequence[Used]]:
        """The task, and that of other texts."""
        return super().used if self.others is None else {**super().used, "other_texts": [(self.others, 0)]}

    @property
    def files(self) -> Sequence[str]:
        """Their files."""
        return [*super().files, *([] if self.recipe.other_texts is None else [self.recipe.other_texts])]

    def refuse_data(self) -> None:
        """Refuse `ood` where none of the task's sets holds a label."""
        if not self.recipe.ood:
            return
        sets = [self.task.ood_examples(name, self.recipe.evaluate.limit) for name in self.task.spec.ood]
        if not any(row.label != NONE_OF_THESE for rows in sets for row in rows):
            raise ConfigError(
                f"ood: task {self.task.spec.name!r} has no out-of-distribution set with rows of its labels, on which "
                f"{', '.join(self.recipe.ood)} could be measured: leave the key out"
            )

    def list_budgets(self) -> list[Asked]:
        """Return the budget of every patch whose size is a density."""
        localize, train = self.recipe.extract.localize, self.task.spec.train
        points = [(name, size) for name, size in self.recipe.points() if name in ("cut", "magnitude")]
        return [(f"methods.{name}", localize.at(size), train) for name, size in points]

    def run_seed(self, context: SeedContext) -> ExtractionSeed:
        """Run one seed."""
        return run_seed(ExtractionRun(self.recipe, self.task.with_seed(context.seed), self.others, context=context))

    def summarize(self, seeds: Sequence[ExtractionSeed], out: Path) -> Summary:
        """Return what every method keeps at every size."""
        del out
        metrics = summarize(seeds)
        tables: list[Block] = [
            f"What each method keeps of the tuned model, {self.task.spec.name}, test split, mean ± 95 % over seeds; "
            "KL is that of its predictions to the tuned model's, in nats; times smaller: than the tuned weights.",
            tabulate_run(metrics),
            "What each method is, and what it needs beside the two checkpoints:",
            tabulate_methods(dict.fromkeys(name for name, _ in self.recipe.points())),
        ]
        return Summary(metrics, tables, expected=metrics)
