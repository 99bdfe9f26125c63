"""Running an experiment on forgetting: every seed, then the tables and the plane of gain and loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from graft.config import load_yaml, override, read_config, to_plain
from graft.errors import ConfigError
from graft.files.location import locate
from graft.recipes.budgets import Asked, refuse_budgets
from graft.recipes.content import Used, content_of_run
from graft.recipes.folder import RunResult, claim_folder, find_missed, inputs_of, run_or_read, write_results
from graft.recipes.retention.bench import RetentionBench, Setting
from graft.recipes.retention.seed import run_retention_seed
from graft.recipes.retention.spec import RetentionSpec, TaskUse
from graft.recipes.retention.summary import MEAN, Units, list_curves, summarise_retention
from graft.recipes.retention.table import format_retention
from graft.recipes.spec import find_base
from graft.recipes.trainings import load_capped, train_config
from graft.report.plots.pareto import plot_pareto
from graft.specs.runtime import Runtime
from graft.tasks.task import Task


def is_retention(path: Path) -> bool:
    """Whether a recipe is about what is lost while domains are learned."""
    return "domains" in load_yaml(path)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its tasks."""

    recipe: RetentionSpec
    general: tuple[Setting, ...]
    domains: tuple[Setting, ...]
    skill: Task | None

    @property
    def tasks(self) -> list[Task]:
        """All of them."""
        settings = [setting.task for setting in (*self.general, *self.domains)]
        return settings if self.skill is None else [*settings, self.skill]

    @property
    def used(self) -> dict[str, list[Used]]:
        """Key of the recipe -> tasks, and how many rows of their test splits are measured."""
        settings = {"general": self.general, "domains": self.domains}
        used: dict[str, list[Used]] = {
            key: [(setting.task, setting.limit) for setting in each] for key, each in settings.items()
        }
        return used if self.skill is None else {**used, "start": [(self.skill, None)]}

    def at(self, seed: int, folder: Path, runtime: Runtime) -> RetentionBench:
        """One seed at work."""
        general, domains = (
            tuple(Setting(setting.task.with_seed(seed), setting.limit) for setting in settings)
            for settings in (self.general, self.domains)
        )
        skill = None if self.skill is None else self.skill.with_seed(seed)
        return RetentionBench(self.recipe, general, domains, skill, seed=seed, folder=folder, runtime=runtime)


def load_retention(path: Path, assignments: tuple[str, ...] = ()) -> Experiment:
    """Read the recipe and its tasks; `assignments` override the recipe.

    Raises:
        ConfigError: naming file and key.
    """
    recipe = read_config(RetentionSpec, override(load_yaml(path), assignments), str(path))
    recipe = dataclasses.replace(recipe, base=find_base(path, recipe.base))
    general, domains = (tuple(_load(path, recipe, use) for use in uses) for uses in (recipe.general, recipe.domains))
    names = [setting.name for setting in (*general, *domains)]
    if len(set(names)) != len(names) or MEAN in names:
        raise ConfigError(f"{path}: two tasks have one name, or one is called {MEAN}: {', '.join(names)}")
    for point in recipe.points():  # what is wrong in it is said before the first costly step
        train_config(domains[0].task, point.how.train)
    skill = None if recipe.start is None else _load(path, recipe, recipe.start.task).task
    return Experiment(recipe, general, domains, skill)


def _load(path: Path, recipe: RetentionSpec, use: str | TaskUse) -> Setting:
    use = TaskUse(use) if isinstance(use, str) else use
    shots = recipe.shots if use.shots is None else use.shots
    longest = recipe.max_length if use.max_length is None else use.max_length
    task = load_capped(path.parent / use.task, {**recipe.train, **use.train}, shots, longest)
    return Setting(task, recipe.evaluate.limit if use.limit is None else use.limit)


def run_retention(
    path: Path, out: Path, *, assignments: tuple[str, ...], device: str, dtype: str, force: bool
) -> RunResult:
    """As `run_recipe`, of a recipe about forgetting."""
    experiment = load_retention(path, assignments)
    for task in experiment.tasks:
        for split in (task.train_examples, task.validation_examples):
            split()  # too few for the shots, said before the first costly step
    recipe, runtime = experiment.recipe, Runtime(device, dtype)
    refuse_budgets(locate(recipe.base).path, _list_budgets(experiment))
    content = content_of_run(recipe, locate(recipe.base).path, experiment.used, dtype)
    inputs = inputs_of(path, recipe.base, recipe.files, experiment.tasks)
    claim_folder(out, to_plain(recipe), content, force, inputs)
    seeds = []
    for seed in tqdm(recipe.seeds, desc=recipe.name, unit="seed", disable=None):
        work = partial(_run_seed, experiment, seed, runtime)
        seeds.append(run_or_read(out / f"seed-{seed}", work))
    return _finish(experiment, seeds, out)


def _list_budgets(experiment: Experiment) -> Iterator[Asked]:
    recipe = experiment.recipe
    if recipe.start is not None and experiment.skill is not None:
        yield "start.localize", recipe.start.localize, experiment.skill.spec.train
    for point in recipe.points():
        for domain in experiment.domains:
            yield f"methods.{point.name}", point.how.graft, train_config(domain.task, point.how.train)


def _run_seed(experiment: Experiment, seed: int, runtime: Runtime, folder: Path) -> dict[str, Any]:
    return run_retention_seed(experiment.at(seed, folder, runtime))


def _finish(experiment: Experiment, seeds: list[dict[str, Any]], out: Path) -> RunResult:
    recipe, units = experiment.recipe, Units.of(experiment.general, experiment.domains)
    summary = summarise_retention(seeds, units)
    table = format_retention(recipe, summary, seeds, units)
    flat = {
        domain: {f"{point}.{key}": item for point, row in rows.items() for key, item in row["figures"].items()}
        for domain, rows in summary.items()
    }
    missed = find_missed(recipe.expect, flat, {})
    results: dict[str, Any] = {"recipe": to_plain(recipe), "units": units.to_json(), "summary": summary}
    results |= {"seeds": seeds, "missed": list(missed)}
    files = plot_pareto(list_curves(recipe, summary, units), out / "plane", title=recipe.name)
    return RunResult(results, table, (*files, *write_results(out, table, results)), missed)
