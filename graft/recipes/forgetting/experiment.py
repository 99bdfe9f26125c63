"""ForgettingExperiment: a recipe about forgetting, its metrics over seeds, and the plane of gain and loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graft.errors import ConfigError
from graft.recipes.budgets import Asked
from graft.recipes.content import Used
from graft.recipes.experiment import Experiment, Summary
from graft.recipes.forgetting.seed import run_seed
from graft.recipes.forgetting.seed_run import ForgettingRun, MeasuredTask
from graft.recipes.forgetting.summary import FIGURES, Units, summarize
from graft.recipes.forgetting.table import tabulate_run
from graft.recipes.seed_run import SeedContext, load_capped, refuse_apart, train_config
from graft.results.seeds import ForgettingSeed
from graft.specs.forgetting import MEAN, ForgettingSpec, TaskUse
from graft.tasks.task import Task


@dataclass(frozen=True)
class ForgettingExperiment(Experiment):
    """A recipe with its tasks.

    Attributes:
        recipe: its typed block.
        general: what the model can do without training.
        domains: what it is to learn.
        skill: what it is given first, where there is such.
    """

    recipe: ForgettingSpec
    general: tuple[MeasuredTask, ...]
    domains: tuple[MeasuredTask, ...]
    skill: Task | None

    @classmethod
    def load(cls, path: Path, recipe: ForgettingSpec) -> ForgettingExperiment:
        """Read the tasks.

        Raises:
            ConfigError: naming file and key.
        """
        general, domains = (
            tuple(_load_task(path, recipe, use) for use in uses) for uses in (recipe.general, recipe.domains)
        )
        _refuse_names(general, domains, path)
        _refuse_own_layers(general, f"{path}: general")
        for point in recipe.points():  # what is wrong in it is said before the first costly step
            train_config(domains[0].task, point.how.train)
            if point.how.replay:
                _refuse_replay(general, domains, f"{path}: methods.{point.name}.replay")
        skill = None if recipe.start is None else _load_task(path, recipe, recipe.start.task).task
        return cls(recipe, general, domains, skill)

    @property
    def used(self) -> Mapping[str, Sequence[Used]]:
        """General tasks, domains and the start's."""
        groups = {"general": self.general, "domains": self.domains}
        used: dict[str, list[Used]] = {
            key: [(item.task, item.limit) for item in tasks] for key, tasks in groups.items()
        }
        return used if self.skill is None else {**used, "start": [(self.skill, None)]}

    @property
    def files(self) -> Sequence[str]:
        """Their files."""
        return self.recipe.files

    def list_budgets(self) -> Iterator[Asked]:
        """Return the budget of the start and of every method that grafts."""
        recipe = self.recipe
        if recipe.start is not None and self.skill is not None:
            yield "start.localize", recipe.start.localize, self.skill.spec.train
        for point in recipe.points():
            for domain in self.domains:
                yield f"methods.{point.name}", point.how.graft, train_config(domain.task, point.how.train)

    def at(self, context: SeedContext) -> ForgettingRun:
        """Return one seed at work."""
        general, domains = (
            tuple(replace(item, task=item.task.with_seed(context.seed)) for item in tasks)
            for tasks in (self.general, self.domains)
        )
        skill = None if self.skill is None else self.skill.with_seed(context.seed)
        return ForgettingRun(self.recipe, general, domains, skill, context=context)

    def run_seed(self, context: SeedContext) -> ForgettingSeed:
        """Run one seed."""
        return run_seed(self.at(context))

    def summarize(self, seeds: Sequence[ForgettingSeed], out: Path) -> Summary:
        """Return what every point gains on its domain and loses elsewhere."""
        del out
        units = Units.of(self.general, self.domains)
        metrics = summarize(seeds, units)
        expected = {
            domain: {f"{point}.{key}": item for point, row in rows.items() for key, item in row["figures"].items()}
            for domain, rows in metrics.items()
        }
        tables = tabulate_run(self.recipe, metrics, seeds, units)
        return Summary(metrics, tables, expected, more={"units": units.to_json()})


def _load_task(path: Path, recipe: ForgettingSpec, use: str | TaskUse) -> MeasuredTask:
    use = TaskUse(use) if isinstance(use, str) else use
    shots = recipe.shots if use.shots is None else use.shots
    longest = recipe.max_length if use.max_length is None else use.max_length
    task = load_capped(path.parent / use.task, {**recipe.train, **use.train}, shots, longest)
    return MeasuredTask(task, recipe.evaluate.limit if use.limit is None else use.limit, use.replay)


def _refuse_names(general: Sequence[MeasuredTask], domains: Sequence[MeasuredTask], path: Path) -> None:
    """Refuse names of tasks that something else has in tables and results.

    Raises:
        ConfigError: naming them.
    """
    names = [item.name for item in (*general, *domains)]
    if len(set(names)) != len(names) or MEAN in names:
        raise ConfigError(f"{path}: two tasks have one name, or one is called {MEAN}: {', '.join(names)}")
    for task in general:
        if task.name in FIGURES:
            raise ConfigError(f"{path}: general: {task.name!r} is the name of a figure: give the task another")


def _refuse_own_layers(general: Sequence[MeasuredTask], where: str) -> None:
    """Refuse a general task whose head is a layer that a model of another head does not hold.

    Raises:
        ConfigError: naming the task.
    """
    for task in (item.task.spec for item in general):
        if task.head.entry.own_layer is not None:  # learning a domain drops it: a new one would be measured
            raise ConfigError(
                f"{where}: task {task.name!r}: {task.head.entry.own_layer} of a {task.head.kind} head is lost while a "
                "domain is learned, so that what was forgotten cannot be measured: use a head without a layer of its "
                "own, such as similarity"
            )


def _refuse_replay(general: Sequence[MeasuredTask], domains: Sequence[MeasuredTask], where: str) -> None:
    """Refuse a replay of nothing, or of a task that cannot be trained along with a domain.

    Raises:
        ConfigError: naming the tasks.
    """
    replayed = [item.task for item in general if item.replay]
    if not replayed:
        raise ConfigError(f"{where}: every general task has `replay: false`")
    for domain in domains:
        refuse_apart([domain.task, *replayed], where)
