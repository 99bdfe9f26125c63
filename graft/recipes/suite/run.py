"""Running a suite: every seed, then tables, plots and the overlap of all regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from graft.compose.task_overlap import TaskOverlap, measure_task_overlap
from graft.config import load_yaml, override, read_config, to_plain
from graft.errors import ConfigError
from graft.files.location import locate
from graft.recipes.budgets import Asked, refuse_budgets
from graft.recipes.content import Used, content_of_run
from graft.recipes.folder import RunResult, claim_folder, find_missed, inputs_of, run_or_read, write_results
from graft.recipes.spec import find_base
from graft.recipes.suite.seed import run_suite_seed
from graft.recipes.suite.spec import SuiteSpec
from graft.recipes.suite.summary import agree, format_suite, mean_matrix, summarise_suite
from graft.recipes.trainings import load_capped, train_config
from graft.report.plots.continual_curves import plot_continual_curves
from graft.report.plots.overlap_map import plot_families
from graft.report.plots.task_matrix import plot_task_matrix
from graft.specs.runtime import Runtime
from graft.tasks.task import Task


def is_suite(path: Path) -> bool:
    """Whether a recipe is over several tasks."""
    return "tasks" in load_yaml(path)


def load_suite(path: Path, assignments: tuple[str, ...] = ()) -> tuple[SuiteSpec, list[Task], list[Task]]:
    """Read the recipe of a suite with its tasks, and those beside them; `assignments` override the recipe.

    Raises:
        ConfigError: naming file and key.
    """
    suite = read_config(SuiteSpec, override(load_yaml(path), assignments), str(path))
    suite = dataclasses.replace(suite, base=find_base(path, suite.base))
    tasks, beside = (_load_tasks(path, suite, files) for files in (suite.tasks, suite.beside))
    names = [task.spec.name for task in (*tasks, *beside)]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: two tasks have one name: {', '.join(names)}")
    for changes in [how.train for how in suite.sequences.values()] + [mix.train for mix in suite.mixes.values()]:
        train_config(tasks[0], changes)  # what is wrong in it is said before the first costly step
    return suite, tasks, beside


def _load_tasks(path: Path, suite: SuiteSpec, files: Sequence[str]) -> list[Task]:
    return [load_capped(path.parent / file, suite.train, suite.shots, suite.max_length) for file in files]


def run_suite(
    path: Path, out: Path, *, assignments: tuple[str, ...], device: str, dtype: str, force: bool
) -> RunResult:
    """As `run_recipe`, of a recipe over several tasks."""
    suite, tasks, beside = load_suite(path, assignments)
    for task in (*tasks, *beside):
        for split in (task.train_examples, task.validation_examples):
            split()  # too few for the shots, said before the first costly step
    refuse_budgets(locate(suite.base).path, _list_budgets(suite, tasks, beside))
    runtime = Runtime(device, dtype)
    named = {"tasks": tasks, "beside": beside}
    used: dict[str, list[Used]] = {key: [(task, suite.evaluate.limit) for task in named[key]] for key in named}
    content = content_of_run(suite, locate(suite.base).path, used, dtype)
    inputs = inputs_of(path, suite.base, (*suite.tasks, *suite.beside), (*tasks, *beside))
    claim_folder(out, to_plain(suite), content, force, inputs)
    seeds = []
    for seed in tqdm(suite.seeds, desc=suite.name, unit="seed", disable=None):
        work = partial(run_suite_seed, suite, tasks, beside, seed, runtime=runtime)
        seeds.append(run_or_read(out / f"seed-{seed}", work))
    return _finish(suite, [task.spec.name for task in (*tasks, *beside)], seeds, out)


def _list_budgets(suite: SuiteSpec, tasks: Sequence[Task], beside: Sequence[Task]) -> Iterator[Asked]:
    for task in (*tasks, *beside):
        yield "localize", suite.localize, task.spec.train
    mixes = [train_config(tasks[0], mix.train) for mix in suite.mixes.values()]
    yield from (("shared", suite.shared, training) for training in mixes[:1])
    for name, how in suite.sequences.items():
        kept = suite.localize.at(how.density) if how.graft else None
        yield f"sequences.{name}", kept, train_config(tasks[0], how.train)
    for name, union in suite.unions.items():
        if not union.shared:
            yield f"unions.{name}", suite.localize.at(union.density), tasks[0].spec.train
        elif suite.shared is not None:
            yield f"unions.{name}", suite.shared.at(union.density), mixes[0]


def _finish(suite: SuiteSpec, names: list[str], seeds: list[dict[str, Any]], out: Path) -> RunResult:
    summary = summarise_suite(seeds)
    overlap = _overlap(names, "", suite.seeds, out)
    agreement = agree(overlap, seeds)
    table = format_suite(suite, summary, seeds, overlap, agreement)
    missed = find_missed(suite.expect, summary, {})
    results: dict[str, Any] = {"recipe": to_plain(suite), "summary": summary, "overlap": overlap.to_json()}
    if suite.shared is not None:
        shared = _overlap(names[: len(suite.tasks)], "shared-", suite.seeds, out)
        results["shared_overlap"] = shared.to_json()
    results |= {"agreement": agreement, "seeds": seeds, "missed": list(missed)}
    files = [*_plot(suite, seeds, overlap, out), *write_results(out, table, results)]
    return RunResult(results, table, tuple(files), missed)


def _overlap(names: Sequence[str], prefix: str, seeds: Sequence[int], out: Path) -> TaskOverlap:
    places = {name: [out / f"seed-{seed}" / f"{prefix}{name}.safetensors" for seed in seeds] for name in names}
    return measure_task_overlap(places)


def _plot(suite: SuiteSpec, seeds: list[dict[str, Any]], overlap: TaskOverlap, out: Path) -> list[Path]:
    files = plot_families(overlap, out / "overlap")
    for key, title in (("grafts", "graft alone"), ("shared", "graft cut from the jointly tuned model")):
        if key in seeds[0]:
            names, gains = mean_matrix(seeds, key)
            files += plot_task_matrix(
                gains,
                names,
                names,
                out / key,
                title=f"Accuracy gained over the base by each task's {title}",
                note="rows: the graft's task; columns: the task that is tested",
            )
    if suite.sequences:
        stages = {name: [seed["stages"][name] for seed in seeds] for name in suite.sequences}
        files += plot_continual_curves(stages, out / "stages", title=f"{suite.name}: learning tasks in turn")
    return files
