"""Run one seed of a recipe about forgetting: every domain learned by every method at every setting, and measured."""

from __future__ import annotations

import shutil
import time
from functools import partial

from tqdm import tqdm

from graft.recipes.forgetting.seed_run import ForgettingRun, Measured, MeasuredTask
from graft.recipes.state import find_or_read
from graft.results.seeds import ForgettingSeed, MeasuredPoint
from graft.specs.forgetting import Point


def run_seed(run: ForgettingRun) -> ForgettingSeed:
    """Run one seed: its state has a file of metrics per domain and point, so that a broken run loses one at most."""
    base = _measure_all_tasks(run, "base")
    start = None if run.patch is None else _measure_all_tasks(run, "start")
    domains = {}
    for domain in run.domains:
        domains[domain.name] = _run_domain(run, domain, start or base)
        run.drop_models()
    if run.models.is_dir():
        shutil.rmtree(run.models)
    k = None if run.patch is None else len(run.patch)
    return ForgettingSeed(run.seed, base.metrics, domains, None if start is None else start.metrics, k)


def _run_domain(run: ForgettingRun, domain: MeasuredTask, before: Measured) -> dict[str, MeasuredPoint]:
    points = {}
    bar = tqdm(run.recipe.points(), desc=domain.name, unit="point", disable=None, leave=False)
    for number, point in enumerate(bar):
        file = run.folder / "points" / f"{domain.name}-{number:02}.json"
        points[point.name] = find_or_read(file, MeasuredPoint, partial(_run_point, run, domain, point, before))
    return points


def _run_point(run: ForgettingRun, domain: MeasuredTask, point: Point, before: Measured) -> MeasuredPoint:
    begun = time.perf_counter()
    model = run.learn(domain.task, point.how)
    seconds = round(time.perf_counter() - begun, 1)
    return MeasuredPoint(point.name, seconds, run.measure(model, (domain, *run.general)).since(before))


def _measure_all_tasks(run: ForgettingRun, name: str) -> Measured:
    """Measure the base or the start on all tasks."""
    model = run.recipe.base if name == "base" else run.start
    file = run.folder / "points" / f"{name}.json"
    return find_or_read(file, Measured, lambda: run.measure(model, (*run.domains, *run.general)))
