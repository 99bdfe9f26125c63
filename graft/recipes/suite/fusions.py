"""Fusions of the models that were tuned apart, and training on all tasks at once, from the base or from a fusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.compose.fusion.fuser import fuse_models
from graft.localize.diff import find_core
from graft.patch.mask import Mask
from graft.recipes.suite.bench import SuiteBench
from graft.recipes.suite.spec import BASE, BlendSpec, MixSpec
from graft.recipes.trainings import Model, with_shots


@dataclass(frozen=True)
class Fused:
    """A fusion that was made.

    Attributes:
        path: the checkpoint.
        found: scale and accuracy on validation; selected entries, their Jaccard similarities and clusters.
        clusters: names of the tasks whose cores belong together.
    """

    path: Path
    found: dict[str, Any]
    clusters: tuple[tuple[str, ...], ...]


def fuse_tuned(bench: SuiteBench, name: str, blend: BlendSpec) -> Fused:
    """Fuse the tuned models of the suite's tasks, at the scale that does best on validation."""
    tuned = {task.spec.name: bench.tuned[task.spec.name] for task in bench.tasks}
    best: Fused | None = None
    for scale in blend.scales or (blend.fuse.scale,):
        out = bench.models / f"{name}-{scale}"
        spec = dataclasses.replace(blend.fuse, scale=scale)
        fusion = fuse_models(bench.suite.base, list(tuned.values()), out, spec, force=True)
        accuracy = bench.validate(bench.open(out))
        if best is None or accuracy > best.found["validation_accuracy"]:
            owners = {path.name: task for task, path in tuned.items()}
            clusters = tuple(tuple(owners[model] for model in group) for group in fusion.clusters)
            found = {"scale": spec.factor, "validation_accuracy": accuracy, "selected": list(fusion.selected)}
            found |= {"jaccard": [list(row) for row in fusion.jaccard], "clusters": [list(group) for group in clusters]}
            best = Fused(out, found, clusters)
    assert best is not None
    return best


def train_mix(bench: SuiteBench, mix: MixSpec, start: Fused | None) -> Path:
    """Train on a balanced mix of all tasks; in stages, each cluster's core is frozen once its stage is over."""
    tasks = [with_shots(task, mix.shots) for task in bench.tasks]
    model: Model = bench.suite.base if start is None else start.path
    clusters: Sequence[tuple[str, ...]] = start.clusters if start is not None and mix.staged else ((),)
    cores = _cores(bench, mix) if mix.freeze else {}
    frozen: list[Mask] = []
    for cluster in clusters:
        model = bench.train(model, tasks, mix.train, protect=frozen)
        frozen += [cores[name] for name in cluster if name in cores]
    return Path(model)


def _cores(bench: SuiteBench, mix: MixSpec) -> dict[str, Mask]:
    """Task -> the share of all weights that its tuning moved furthest, as its fusion has it."""
    assert mix.start != BASE
    share = bench.suite.fusions[mix.start].fuse.core
    return {task.spec.name: find_core(bench.suite.base, bench.tuned[task.spec.name], share) for task in bench.tasks}
