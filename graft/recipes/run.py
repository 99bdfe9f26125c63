"""Running a recipe: every seed, then the table, the plots and the patch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from graft.config import load_yaml, override, read_config, to_plain
from graft.errors import ConfigError
from graft.evaluate.pooling import pool_seeds
from graft.localize.methods import METHODS
from graft.outputs import new_file, new_folder
from graft.patch.file import load_patch
from graft.recipes.bench import Machine, graft_name
from graft.recipes.seed import bins_from_json, run_seed
from graft.recipes.spec import RecipeSpec
from graft.recipes.summary import format_tables, summarise
from graft.report.layer_map import plot_layer_map
from graft.report.reliability import plot_reliability, pool_bins
from graft.tasks.task import Task

MARK = "recipe.json"  # what is being run, from the start; results.json comes at the end
RESULTS = "results.json"


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


def load_recipe(path: Path, assignments: tuple[str, ...] = ()) -> tuple[RecipeSpec, Task]:
    """Read a recipe and its task; `assignments` such as "localize.density=1e-3" override the recipe.

    Raises:
        ConfigError: naming file and key.
    """
    recipe = read_config(RecipeSpec, override(load_yaml(path), assignments), str(path))
    recipe = dataclasses.replace(recipe, base=_find_base(path, recipe.base))
    for key, methods in (("controls", recipe.controls), ("analysis.curve.methods", recipe.curve_methods)):
        for method in methods:
            if method not in METHODS:
                raise ConfigError(f"{path}: {key}: {method!r} is not a method; choose from {', '.join(METHODS)}")
    # the recipe's train block overrides the task's key by key
    changes = tuple(f"train.{key}={json.dumps(value, default=str)}" for key, value in recipe.train.items())
    return recipe, Task.load(path.parent / recipe.task, changes)


def _find_base(path: Path, base: str) -> str:
    """A base that lies at a path relative to the recipe, as its task does; any other as it stands."""
    beside = path.parent / base
    return os.path.normpath(beside) if beside.is_dir() else base


def run_recipe(
    path: Path,
    out: Path,
    *,
    assignments: tuple[str, ...] = (),
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
) -> RunResult:
    """Run a recipe into a folder.

    Seeds that are done stay in the folder, so that a run which was broken off goes on where it was when it is
    started again with the same recipe.

    Raises:
        OutputError: the folder holds something else and `force` is off.
        GraftError: whatever a stage raises.
    """
    recipe, task = load_recipe(path, assignments)
    for split in (task.train_examples, task.validation_examples, task.test_examples):
        split()  # bad data are said before the first costly step
    for name in task.spec.ood:
        task.ood_examples(name)
    machine = Machine(device, dtype)
    what = {"recipe": to_plain(recipe), "task": task.describe(), "train": to_plain(task.spec.train), "dtype": dtype}
    _claim(out, what, force)
    seeds = []
    for seed in tqdm(recipe.seeds, desc=recipe.name, unit="seed", disable=None):
        seeds.append(_run_or_read(recipe, task, seed, out, machine))
    return _finish(recipe, task, seeds, out)


def _claim(out: Path, what: Mapping[str, Any], force: bool) -> None:
    """Make the folder, or take up one that an earlier try at the same recipe left unfinished."""
    try:
        begun = json.loads((out / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        begun = None
    if begun == what and not (out / RESULTS).exists():
        return
    with new_folder(out, force=force) as folder:
        (folder / MARK).write_text(json.dumps(what, indent=2), encoding="utf-8")


def _run_or_read(recipe: RecipeSpec, task: Task, seed: int, out: Path, machine: Machine) -> dict[str, Any]:
    folder = out / f"seed-{seed}"
    done = folder / "seed.json"
    if not done.is_file():
        figures = run_seed(recipe, task, seed, folder, machine)
        with new_file(done, force=True) as file:
            file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    figures = json.loads(done.read_text(encoding="utf-8"))
    assert isinstance(figures, dict)
    return figures


def _finish(recipe: RecipeSpec, task: Task, seeds: list[dict[str, Any]], out: Path) -> RunResult:
    summary = summarise(seeds)
    pooled = pool_seeds(seeds)
    sets = [name for name in task.spec.ood if f"{name}.accuracy" in summary["base"]]
    table = format_tables(graft_name(recipe.localize.method), sets, summary, seeds, pooled)
    missed = _missed(recipe, summary)
    results = {"recipe": to_plain(recipe), "summary": summary, "pooled": pooled, "seeds": seeds}
    results["missed"] = list(missed)
    patch = out / f"seed-{recipe.seeds[0]}" / f"{recipe.localize.method}.safetensors"
    files = [*_plot(recipe, seeds, out), patch]
    for name, text in (("table.md", table + "\n"), (RESULTS, json.dumps(results, indent=1))):
        with new_file(out / name, force=True) as file:
            file.write_text(text, encoding="utf-8")
        files.append(out / name)
    return RunResult(results, table, tuple(files), missed)


def _plot(recipe: RecipeSpec, seeds: list[dict[str, Any]], out: Path) -> list[Path]:
    main = graft_name(recipe.localize.method)
    bins = {name: pool_bins([bins_from_json(seed["bins"][name]) for seed in seeds]) for name in ("base", "tuned", main)}
    over = f"{len(seeds)} seeds pooled" if len(seeds) > 1 else "1 seed"
    files = plot_reliability(bins, out / "reliability", title=f"{recipe.name}: reliability on test, {over}")
    patch = load_patch(out / f"seed-{recipe.seeds[0]}" / f"{recipe.localize.method}.safetensors")
    title = f"{recipe.name}: where the {len(patch):,} entries lie ({recipe.localize.method}, seed {recipe.seeds[0]})"
    return files + plot_layer_map(patch.mask, out / "layers", title=title)


def _missed(recipe: RecipeSpec, summary: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    missed = []
    for key, expected in recipe.expect.items():
        model, _, metric = key.partition(".")
        name = graft_name(recipe.localize.method) if model == "graft" else model
        found = summary.get(name, {}).get(metric)
        if found is None:
            missed.append(f"{key}: no such figure")
        elif abs(found["mean"] - expected.value) > expected.tolerance:
            missed.append(f"{key} is {found['mean']:.3f}, expected {expected.value:g} ± {expected.tolerance:g}")
    return tuple(missed)
