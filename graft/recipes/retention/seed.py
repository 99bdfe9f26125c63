"""One seed of an experiment on forgetting: every domain learned by every method at every setting, and measured."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import Any

from tqdm import tqdm

from graft.recipes.folder import find_or_read
from graft.recipes.retention.bench import Figures, RetentionBench, Setting
from graft.recipes.retention.spec import Point


def run_retention_seed(bench: RetentionBench) -> dict[str, Any]:
    """Run one seed in its folder: a file of figures per domain and point, so that a broken run loses one point at most.

    Returns:
        seed; base: task -> "validation", "test" -> figures; start: likewise, where it is another model; domains:
        domain -> point -> "figures" (of the domain and the general tasks) and "seconds" of training it.
    """
    result: dict[str, Any] = {"seed": bench.seed, "base": _measure_whole(bench, "base")}
    if bench.patch is not None:
        result["start"] = _measure_whole(bench, "start")
        result["k"] = len(bench.patch)
    result["domains"] = {}
    for domain in bench.domains:
        result["domains"][domain.name] = _run_domain(bench, domain)
        bench.drop_models()
    if bench.models.is_dir():
        shutil.rmtree(bench.models)
    return result


def _run_domain(bench: RetentionBench, domain: Setting) -> dict[str, Any]:
    points = bench.recipe.points()
    found = {}
    for number, point in enumerate(tqdm(points, desc=domain.name, unit="point", disable=None, leave=False)):
        file = bench.folder / "points" / f"{domain.name}-{number:02}.json"
        found[point.name] = find_or_read(file, partial(_run_point, bench, domain, point))
    return found


def _run_point(bench: RetentionBench, domain: Setting, point: Point) -> dict[str, Any]:
    begun = time.perf_counter()
    model = bench.learn(domain.task, point.how)
    seconds = round(time.perf_counter() - begun, 1)
    return {"point": point.name, "seconds": seconds, "figures": bench.measure(model, (domain, *bench.general))}


def _measure_whole(bench: RetentionBench, name: str) -> Figures:
    """Figures of the base or the start on all tasks."""
    model = bench.recipe.base if name == "base" else bench.start
    found: Figures = find_or_read(
        bench.folder / "points" / f"{name}.json", lambda: bench.measure(model, (*bench.domains, *bench.general))
    )
    return found
