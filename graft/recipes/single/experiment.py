"""SingleExperiment: a recipe of one task, its metrics over seeds, and its plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.controls.registry import CONTROLS
from graft.errors import ConfigError
from graft.evaluate.evaluation import Predictions
from graft.evaluate.pooling import pool_seeds
from graft.evaluate.t_interval import mean_interval
from graft.files.location import locate
from graft.recipes.budgets import Asked, refuse_contrast
from graft.recipes.experiment import OneTaskExperiment, Summary
from graft.recipes.seed_run import SeedContext, train_assignments
from graft.recipes.single.seed import run_seed
from graft.recipes.single.seed_run import SingleRun
from graft.recipes.single.table import summarize, tabulate_run
from graft.results.areas import areas_of
from graft.results.fields import to_json
from graft.results.layout import patch_path
from graft.results.models import graft_name, name_models
from graft.results.seeds import SingleSeed
from graft.specs.recipe import EvaluateSpec
from graft.specs.single import SingleSpec
from graft.tasks.placement import find_dtype
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.scope import Scope


@dataclass(frozen=True)
class SingleExperiment(OneTaskExperiment):
    """A recipe with its task.

    Attributes:
        of_base: evaluate block -> what the untouched base predicts, which the seeds have in common.
    """

    recipe: SingleSpec
    task: Task
    of_base: dict[EvaluateSpec, Predictions] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, recipe: SingleSpec) -> SingleExperiment:
        """Read the task, whose train block the recipe's overrides key by key.

        Raises:
            ConfigError: naming file and key.
        """
        for key, methods in (("controls", recipe.controls), ("analysis.curve.methods", recipe.curve_methods)):
            for method in methods:
                try:
                    CONTROLS.find(method)
                except ConfigError as error:
                    raise ConfigError(f"{path}: {key}: {error}") from error
                refuse_contrast(f"{path}: {key}", CONTROLS[method])
        task = Task.load(path.parent / recipe.task, train_assignments(recipe.train))
        return cls(recipe, task)

    def refuse_dtype(self, dtype: str) -> None:
        """Refuse a dtype other than the base's: a patch is cut in the base's and lands in no other.

        Raises:
            ConfigError: naming both.
        """
        asked = find_dtype(dtype)
        base = Checkpoint.open(locate(self.recipe.base).path)
        dtypes = sorted({base.spec(name).dtype for name in Scope(self.recipe.localize.scope).names(base)})
        if dtype != "auto" and any(TORCH_DTYPES[name] != asked for name in dtypes):
            raise ConfigError(
                f"dtype {dtype}: {self.recipe.base} is kept in {', '.join(dtypes)}, where its patches land; "
                "leave it out"
            )

    def list_budgets(self) -> Iterator[Asked]:
        """Return the budget of all patches."""
        yield "localize", self.recipe.localize, self.task.spec.train

    def at(self, context: SeedContext) -> SingleRun:
        """Return one seed at work."""
        return SingleRun(self.recipe, self.task.with_seed(context.seed), self.of_base, context=context)

    def run_seed(self, context: SeedContext) -> SingleSeed:
        """Run one seed."""
        return run_seed(self.at(context))

    def summarize(self, seeds: Sequence[SingleSeed], out: Path) -> Summary:
        """Return every model's metrics, and the main graft minus each."""
        summary, pooled = summarize(seeds), pool_seeds([to_json(seed) for seed in seeds])
        main = graft_name(self.recipe.main)
        sets = [name for name in self.task.spec.ood if f"{name}.accuracy" in summary["base"]]
        models = {name: model for name, model in name_models(self.recipe.methods).items() if name in seeds[0].models}
        return Summary(
            metrics=summary,
            tables=tabulate_run(main, sets, summary, models, seeds, pooled),
            expected={**summary, "graft": summary[main]},
            models=models,
            more={"pooled": pooled, **_average_areas(seeds)},
            files=[patch_path(out, self.recipe.main, self.recipe.seeds[0])],
        )


def _average_areas(seeds: Sequence[SingleSeed]) -> dict[str, Any]:
    """Return the areas under the curves, method -> metric -> mean, half-width and values; nothing without curves."""
    areas = areas_of(seeds)
    means = {method: {key: mean_interval(values) for key, values in row.items()} for method, row in areas.items()}
    return {"areas": means} if means else {}
