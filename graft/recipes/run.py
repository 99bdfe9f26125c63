"""Running a recipe: every seed, then the table, the plots and the patch."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from graft.config import load_yaml, override, read_config, to_plain
from graft.errors import ConfigError
from graft.evaluate.pooling import pool_seeds
from graft.files.location import locate
from graft.localize.registry import LOCALIZATION_METHODS
from graft.patch.format.reading import load_patch
from graft.recipes.bench import graft_name
from graft.recipes.budgets import refuse_budgets
from graft.recipes.content import content_of_run
from graft.recipes.folder import RunResult, claim_folder, find_missed, inputs_of, run_or_read, write_results
from graft.recipes.retention.run import is_retention, run_retention
from graft.recipes.seed import bins_from_json, run_seed
from graft.recipes.spec import RecipeSpec, find_base
from graft.recipes.suite.run import is_suite, run_suite
from graft.recipes.summary import format_tables, summarise
from graft.report.plots.layer_map import plot_layer_map
from graft.report.plots.reliability import plot_reliability, pool_bins
from graft.specs.runtime import Runtime
from graft.tasks.head import find_dtype
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.scope import Scope


def load_recipe(path: Path, assignments: tuple[str, ...] = ()) -> tuple[RecipeSpec, Task]:
    """Read a recipe and its task; `assignments` such as "localize.density=1e-3" override the recipe.

    Raises:
        ConfigError: naming file and key.
    """
    recipe = read_config(RecipeSpec, override(load_yaml(path), assignments), str(path))
    recipe = dataclasses.replace(recipe, base=find_base(path, recipe.base))
    for key, methods in (("controls", recipe.controls), ("analysis.curve.methods", recipe.curve_methods)):
        for method in methods:
            try:
                LOCALIZATION_METHODS.find(method)
            except ConfigError as error:
                raise ConfigError(f"{path}: {key}: {error}") from error
    # the recipe's train block overrides the task's key by key
    changes = tuple(f"train.{key}={json.dumps(value, default=str)}" for key, value in recipe.train.items())
    return recipe, Task.load(path.parent / recipe.task, changes)


def run_recipe(
    path: Path,
    out: Path,
    *,
    assignments: tuple[str, ...] = (),
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
) -> RunResult:
    """Run a recipe, of one task, of several (`graft.recipes.suite`) or of forgetting (`graft.recipes.retention`).

    Seeds that are done stay in the folder, so that a run which was broken off goes on where it was when it is
    started again with the same recipe, base and data, wherever these lie (`graft.recipes.content`).

    Raises:
        OutputError: the folder holds something else, or a run of other content, and `force` is off.
        ConfigError: `dtype` is another than the base's, on which no patch would land.
        GraftError: whatever a stage raises.
    """
    if is_retention(path):
        return run_retention(path, out, assignments=assignments, device=device, dtype=dtype, force=force)
    if is_suite(path):
        return run_suite(path, out, assignments=assignments, device=device, dtype=dtype, force=force)
    recipe, task = load_recipe(path, assignments)
    _check_dtype(recipe, dtype)
    for split in (task.train_examples, task.validation_examples):
        split()  # too few for the shots, said before the first costly step
    refuse_budgets(locate(recipe.base).path, [("localize", recipe.localize, task.spec.train)])
    runtime = Runtime(device, dtype)
    content = content_of_run(recipe, locate(recipe.base).path, {"task": [(task, recipe.evaluate.limit)]}, dtype)
    claim_folder(out, to_plain(recipe), content, force, inputs_of(path, recipe.base, [recipe.task], [task]))
    seeds = []
    for seed in tqdm(recipe.seeds, desc=recipe.name, unit="seed", disable=None):
        seeds.append(run_or_read(out / f"seed-{seed}", partial(run_seed, recipe, task, seed, runtime=runtime)))
    return _finish(recipe, task, seeds, out)


def _check_dtype(recipe: RecipeSpec, dtype: str) -> None:
    """A patch is cut in the base's dtype and lands in no other: say so before training rather than after it."""
    asked = find_dtype(dtype)
    base = Checkpoint.open(locate(recipe.base).path)
    kept = sorted({base.spec(name).dtype for name in Scope(recipe.localize.scope).names(base)})
    if dtype != "auto" and any(TORCH_DTYPES[name] != asked for name in kept):
        raise ConfigError(
            f"dtype {dtype}: {recipe.base} is kept in {', '.join(kept)}, where its patches land; leave it out"
        )


def _finish(recipe: RecipeSpec, task: Task, seeds: list[dict[str, Any]], out: Path) -> RunResult:
    summary = summarise(seeds)
    pooled = pool_seeds(seeds)
    sets = [name for name in task.spec.ood if f"{name}.accuracy" in summary["base"]]
    table = format_tables(graft_name(recipe.localize.method), sets, summary, seeds, pooled)
    missed = find_missed(recipe.expect, summary, {"graft": graft_name(recipe.localize.method)})
    results = {"recipe": to_plain(recipe), "summary": summary, "pooled": pooled, "seeds": seeds}
    results["missed"] = list(missed)
    patch = out / f"seed-{recipe.seeds[0]}" / f"{recipe.localize.method}.safetensors"
    files = [*_plot(recipe, seeds, out), patch, *write_results(out, table, results)]
    return RunResult(results, table, tuple(files), missed)


def _plot(recipe: RecipeSpec, seeds: list[dict[str, Any]], out: Path) -> list[Path]:
    main = graft_name(recipe.localize.method)
    bins = {name: pool_bins([bins_from_json(seed["bins"][name]) for seed in seeds]) for name in ("base", "tuned", main)}
    over = f"{len(seeds)} seeds pooled" if len(seeds) > 1 else "1 seed"
    files = plot_reliability(bins, out / "reliability", title=f"{recipe.name}: reliability on test, {over}")
    patch = load_patch(out / f"seed-{recipe.seeds[0]}" / f"{recipe.localize.method}.safetensors")
    title = f"{recipe.name}: where the {len(patch):,} entries lie ({recipe.localize.method}, seed {recipe.seeds[0]})"
    return files + plot_layer_map(patch.mask, out / "layers", title=title)
