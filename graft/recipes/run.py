"""Running a recipe, of whatever kind: every seed, then tables, plots and results."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from graft.evaluate.rounding import reaches
from graft.files.location import locate
from graft.files.outputs import new_file
from graft.parallel.side_by_side import run_side_by_side
from graft.recipes.budgets import refuse_budgets
from graft.recipes.content import content_of_run
from graft.recipes.experiment import Experiment, Metrics
from graft.recipes.registry import find_kind
from graft.recipes.seed_run import SeedContext
from graft.recipes.splits import survey_data
from graft.recipes.state import claim_run, drop_state, find_or_read, inputs_of, read_done
from graft.report.plots.registry import PLOTS
from graft.report.run_folder import FinishedRun, open_run
from graft.results.layout import PATCHES, RESULTS, STATE, TABLES
from graft.results.run import SEEDS, Results
from graft.results.tables import to_markdown
from graft.specs.reader import load_yaml, override, read_config, to_plain
from graft.specs.recipe import Expectation
from graft.specs.runtime import Runtime


@dataclass(frozen=True)
class RunResult:
    """A finished recipe.

    Attributes:
        results: everything that results.json holds.
        table: the tables as text.
        files: what was written, in the order in which to look at it.
        missed: expectations that were not met, each as a sentence.
    """

    results: Mapping[str, Any]
    table: str
    files: tuple[Path, ...]
    missed: tuple[str, ...]


def load_experiment(path: Path, assignments: tuple[str, ...] = ()) -> Experiment:
    """Read a recipe and its tasks; `assignments` such as "localize.density=1e-3" override the recipe.

    Raises:
        ConfigError: naming file and key.
    """
    content = override(load_yaml(path), assignments)
    kind = find_kind(content, str(path))
    recipe = read_config(kind.load_spec(), content, str(path))
    experiment: Experiment = kind.load().load(path, dataclasses.replace(recipe, base=find_base(path, recipe.base)))
    return experiment


def find_base(recipe: Path, base: str) -> str:
    """Return a base that lies at a path relative to the recipe, as its task does; any other as it stands."""
    beside = recipe.parent / base
    return os.path.normpath(beside) if beside.is_dir() else base


def run_recipe(
    path: Path,
    out: Path,
    *,
    assignments: tuple[str, ...] = (),
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
    jobs: int = 1,
) -> RunResult:
    """Run a recipe of any kind (`graft.recipes.registry`) into a folder (`graft.results.layout`).

    Seeds that are done stay in the folder until all are, so that a run which was broken off goes on where it was when
    it is started again with the same recipe, base and data, wherever these lie (`graft.recipes.content`).

    Args:
        path: of the recipe.
        out: the folder.
        assignments: what overrides the recipe, such as "localize.density=1e-3".
        device, dtype: as in `graft.specs.runtime.Runtime`.
        force: replace what the folder holds.
        jobs: seeds to run side by side, each in a process of its own, which reads the recipe anew: rows that were
            added to a registry in this process are not there. A script that asks for several keeps what it does under
            `if __name__ == "__main__":`, since each process imports it.

    Raises:
        OutputError: the folder holds something else, or a run of other content, and `force` is off.
        ConfigError: `dtype` is another than the base's, on which no patch would land.
        GraftError: whatever a stage raises.
    """
    experiment = load_experiment(path, assignments)
    recipe, base = experiment.recipe, locate(experiment.recipe.base).path
    experiment.refuse_dtype(dtype)
    digests = survey_data(recipe, experiment.used)  # refuses rows before the first costly step
    experiment.refuse_data()
    refuse_budgets(base, experiment.list_budgets())
    content = content_of_run(recipe, base, experiment.used, digests, dtype)
    inputs = inputs_of(path, recipe.base, experiment.files, experiment.tasks)
    claim_run(out, to_plain(recipe), content, force, inputs)
    contexts = [_context_of(out, seed, Runtime(device, dtype)) for seed in recipe.seeds]
    kind = SEEDS.get(recipe.kind, Any)
    apart = jobs > 1 and len(contexts) > 1
    if apart:
        left = [place for place, context in enumerate(contexts) if read_done(context.results, kind) is None]
        work = partial(_run_alone, path, assignments, out, dtype)
        run_side_by_side(work, recipe.seeds, left, jobs, device, recipe.name)
    bar = tqdm(contexts, desc=recipe.name, unit="seed", disable=apart or None)
    return _finish(experiment, [_run_seed(experiment, context) for context in bar], out)


def _context_of(out: Path, seed: int, runtime: Runtime) -> SeedContext:
    return SeedContext(seed, out / STATE / f"seed-{seed}", out / PATCHES, runtime)


def _run_seed(experiment: Experiment, context: SeedContext) -> Any:
    """Return the results of a seed, which is run unless they are there."""
    kind = SEEDS.get(experiment.recipe.kind, Any)
    return find_or_read(context.results, kind, partial(experiment.run_seed, context))


def _run_alone(path: Path, assignments: tuple[str, ...], out: Path, dtype: str, seed: int, device: str) -> None:
    """Run a seed in a process of its own, which leaves the results in the run's folder."""
    _run_seed(load_experiment(path, assignments), _context_of(out, seed, Runtime(device, dtype)))


def _finish(experiment: Experiment, seeds: Sequence[Any], out: Path) -> RunResult:
    recipe, summary = experiment.recipe, experiment.summarize(seeds, out)
    results = Results(
        kind=recipe.kind,
        recipe=to_plain(recipe),
        summary=summary.metrics,
        seeds=tuple(seeds),
        tables=summary.tables,
        models=summary.models,
        missed=find_missed(recipe.expect, summary.expected),
        more=summary.more,
    )
    content, table = results.to_json(), to_markdown(summary.tables)
    files = [*draw_plots(open_run(out, results)), *summary.files]
    for name, text in ((TABLES, table + "\n"), (RESULTS, json.dumps(content, indent=1))):  # the results last
        with new_file(out / name, force=True) as file:
            file.write_text(text, encoding="utf-8")
    drop_state(out)
    return RunResult(content, table, (*files, out / TABLES, out / RESULTS), results.missed)


def draw_plots(run: FinishedRun) -> list[Path]:
    """Draw the plots of a run's kind (`graft.report.plots.registry`) into its folder; return the files written."""
    files: list[Path] = []
    for entry in PLOTS.values():
        plot = entry.load()(run) if entry.in_folder and entry.applies_to(run.results.kind) else None
        files += [] if plot is None else plot.draw(run.path / entry.name)
    return files


def find_missed(expect: Mapping[str, Expectation], metrics: Metrics) -> tuple[str, ...]:
    """Return the expectations that were not met, each as a sentence.

    Args:
        expect: "MODEL.METRIC" -> value and tolerance.
        metrics: model -> metric -> its mean and more.
    """
    missed = []
    for key, expected in expect.items():
        model = max((name for name in metrics if key.startswith(f"{name}.")), key=len, default="")  # names hold dots
        estimate = metrics.get(model, {}).get(key.removeprefix(f"{model}."))
        if estimate is None:
            missed.append(f"{key}: no such figure")
        elif not reaches(expected.tolerance, abs(estimate["mean"] - expected.value)):  # NaN is no figure's value
            missed.append(f"{key} is {estimate['mean']:.3f}, expected {expected.value:g} ± {expected.tolerance:g}")
    return tuple(missed)
