"""Run one seed of a recipe of kind planted: plant, drift, and let every method look for what was planted."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from tqdm import tqdm

from graft.errors import BudgetError
from graft.evaluate.areas import area_over_density
from graft.evaluate.comparison import recovered_gain
from graft.files.location import locate
from graft.localize.budget import resolve_budget
from graft.localize.context import ScoreCache
from graft.localize.localization import localize_skill
from graft.localize.registry import LOCALIZATION_METHODS
from graft.patch.live import apply_patch
from graft.patch.mask import Mask
from graft.recipes.seed_run import SeedRun
from graft.recipes.state import find_or_read
from graft.registry import name_number
from graft.results.planted import Numbers, PlantedCell, PlantedSeed
from graft.sources.opening import Model, open_pair
from graft.specs.planted import PlantedSpec
from graft.tasks.head import Head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope
from graft.train.planting import Drift, changed_mask, draw_mask, draw_part, size_at


@dataclass(frozen=True)
class PlantedRun(SeedRun):
    """Seed at work.

    Attributes:
        recipe: the whole recipe.
        task, drift: the tasks under this seed.
    """

    recipe: PlantedSpec
    task: Task
    drift: Task

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors in scope."""
        return Scope(self.recipe.localize.scope).names(self.base)

    @property
    def base(self) -> Checkpoint:
        """The base."""
        return Checkpoint.open(locate(self.recipe.base).path)

    def open(self, model: str | Path) -> Head:
        """Open a model with the task's head."""
        return self.open_heads(model, [self.task])[0]

    def measure(self, head: Head) -> float:
        """Return the accuracy on test."""
        evaluate = self.recipe.evaluate
        return head.accuracy(self.task.test_examples(evaluate.limit), batch_size=evaluate.batch_size, label="test")

    def plant(self, density: float) -> Path:
        """Train a mask's entries alone; return the checkpoint."""
        if self.recipe.support == "gradient":
            keys = {key: self.recipe.train[key] for key in ("epochs", "lr") if key in self.recipe.train}
            return self.train(
                self.recipe.base,
                [self.task],
                {
                    "localizable": {"support": "gradient", "density": density} | keys,
                    "scope": self.recipe.localize.scope,
                },
            )
        base = self.base
        mask = draw_mask(base, self.names, resolve_budget(base.n_parameters, density, None), self.seed)
        still = mask.complement({name: base.spec(name) for name in base.parameters})
        return self.train(self.recipe.base, [self.task], {"scope": self.recipe.localize.scope}, protect=[still])


@dataclass(frozen=True, eq=False)
class Planting:
    """A planted checkpoint.

    Attributes:
        density: as asked for.
        path: its folder.
        mask: the entries that moved.
        size: root mean square of their movement.
        accuracy: on test.
    """

    density: float
    path: Path
    mask: Mask
    size: float
    accuracy: float


def run_seed(run: PlantedRun) -> PlantedSeed:
    """Run one seed: its state has a file per place on the ladder, so that a broken run loses one at most."""
    recipe = run.recipe
    head = run.open(recipe.base)
    base = run.measure(head)
    drifted = run.train(recipe.base, [run.drift], recipe.drift_train)
    drift = Drift(open_pair(recipe.base, drifted).without_rounding(), run.names)
    cells = []
    places = list(product(recipe.ratios, recipe.overlaps))
    bar = tqdm(
        total=len(recipe.densities) * len(places), desc=f"seed {run.seed}", unit="cell", disable=None, leave=False
    )
    for density in recipe.densities:
        planting = _plant(run, density)
        for ratio, overlap in places:
            file = run.folder / "cells" / f"{'-'.join(map(name_number, (density, ratio, overlap)))}.json"
            cells.append(
                find_or_read(file, PlantedCell, partial(_run_cell, run, head, planting, drift, ratio, overlap, base))
            )
            bar.update()
    bar.close()
    shutil.rmtree(run.models, ignore_errors=True)
    return PlantedSeed(run.seed, base, tuple(cells))


def _plant(run: PlantedRun, density: float) -> Planting:
    path = run.plant(density)
    pair = open_pair(run.recipe.base, path).without_rounding()
    mask = changed_mask(pair, run.names)
    if not len(mask):
        raise BudgetError(f"densities: at {density:g} no planted entry moved: train longer or plant more")
    return Planting(density, path, mask, size_at(pair, mask), run.measure(run.open(path)))


def _run_cell(
    run: PlantedRun, head: Head, planting: Planting, drift: Drift, ratio: float, overlap: float, base: float
) -> PlantedCell:
    """Let the drift come over a planted checkpoint, and every method look for the mask."""
    tuned, mask = run.open(planting.path), planting.mask
    still = mask - draw_part(mask, overlap, run.seed)
    drift.add_to(tuned.model, ratio * planting.size / drift.size(), still)
    methods = {}
    for method in run.recipe.methods:
        methods[method] = _run_method(run, head, tuned.model, mask, method, (base, planting.accuracy))
    drifted = run.measure(tuned)
    return PlantedCell(planting.density, ratio, overlap, len(mask), planting.accuracy, drifted, methods)


def _run_method(
    run: PlantedRun, head: Head, tuned: Model, mask: Mask, method: str, ends: tuple[float, float]
) -> Numbers:
    """Return recall, its area, the graft's accuracy and gain, and seconds; without those of budgets it cannot fill."""
    recalls: dict[float, float] = {}
    numbers: dict[str, float] = {}
    cache: ScoreCache = {}
    general = run.drift if LOCALIZATION_METHODS[method].needs_general else None
    for multiple, budget in _budgets(run, mask):
        config = replace(run.recipe.localize, method=method, budget=budget, seed=run.seed)
        begun = time.perf_counter()
        try:
            patch = localize_skill(
                run.recipe.base, tuned, run.task, config, general=general, score_cache=cache, **run.runtime.options
            )
        except BudgetError as error:  # there are entries enough, but a method that contrasts texts passes most over
            tqdm.write(f"{method} at {multiple:g} times the planted entries: {error}", file=sys.stderr)
            continue
        seconds = time.perf_counter() - begun
        recalls[multiple] = len(patch.mask & mask) / len(mask)
        if multiple == 1:
            with apply_patch(head.model, patch):
                accuracy = run.measure(head)
            gain = recovered_gain(accuracy, *ends)
            numbers = {"recall": recalls[1], "accuracy": accuracy, "seconds": round(seconds, 1)}
            numbers |= {} if gain is None else {"recovered_gain": gain}
    # over fewer budgets it would be the area of another curve than the other methods', or than at other densities
    area = area_over_density(recalls) if len(recalls) == len(run.recipe.multiples) else None
    return numbers if area is None else numbers | {"area": area}


def _budgets(run: PlantedRun, mask: Mask) -> Iterator[tuple[float, int]]:
    """Yield the budgets of the curve that there are entries for, that of the mask's own size first."""
    n = sum(run.base.spec(name).numel for name in run.names)
    for multiple in sorted(run.recipe.multiples, key=lambda multiple: multiple != 1):
        budget = round(multiple * len(mask))
        if 1 <= budget <= n:
            yield multiple, budget
