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
from graft.recipes.multitask.seed_run import MultitaskRun
from graft.recipes.seed_run import Model, with_shots
from graft.specs.multitask import BASE, BlendSpec, MixSpec


@dataclass(frozen=True)
class Fused:
    """A fusion that was made.

    Attributes:
        path: the checkpoint.
        facts: scale and accuracy on validation; selected entries, their Jaccard similarities and clusters.
        clusters: names of the tasks whose cores belong together.
    """

    path: Path
    facts: dict[str, Any]
    clusters: tuple[tuple[str, ...], ...]


def fuse_tuned(run: MultitaskRun, name: str, blend: BlendSpec) -> Fused:
    """Fuse the tuned models of the recipe's tasks, at the scale that does best on validation."""
    tuned = {task.spec.name: run.tuned[task.spec.name] for task in run.tasks}
    best: Fused | None = None
    for scale in blend.scales or (blend.fuse.scale,):
        out = run.models / f"{name}-{scale}"
        spec = dataclasses.replace(blend.fuse, scale=scale)
        fusion = fuse_models(run.recipe.base, list(tuned.values()), out, spec, force=True)
        accuracy = run.validate(run.open(out))
        if best is None or accuracy > best.facts["validation_accuracy"]:
            owners = {path.name: task for task, path in tuned.items()}
            clusters = tuple(tuple(owners[model] for model in group) for group in fusion.clusters)
            facts = {"scale": spec.factor, "validation_accuracy": accuracy, "selected": list(fusion.selected)}
            facts |= {"jaccard": [list(row) for row in fusion.jaccard], "clusters": [list(group) for group in clusters]}
            best = Fused(out, facts, clusters)
    assert best is not None
    return best


def train_mix(run: MultitaskRun, mix: MixSpec, start: Fused | None) -> Path:
    """Train on a balanced mix of all tasks; in stages, each cluster's core is frozen once its stage is over."""
    tasks = [with_shots(task, mix.shots) for task in run.tasks]
    model: Model = run.recipe.base if start is None else start.path
    clusters: Sequence[tuple[str, ...]] = start.clusters if start is not None and mix.staged else ((),)
    cores = _find_cores(run, mix) if mix.freeze else {}
    frozen: list[Mask] = []
    for cluster in clusters:
        model = run.train(model, tasks, mix.train, protect=frozen)
        frozen += [cores[name] for name in cluster if name in cores]
    return Path(model)


def _find_cores(run: MultitaskRun, mix: MixSpec) -> dict[str, Mask]:
    """Return task -> the share of all weights that its tuning moved furthest, as its fusion has it."""
    assert mix.start != BASE
    share = run.recipe.fusions[mix.start].fuse.core
    return {task.spec.name: find_core(run.recipe.base, run.tuned[task.spec.name], share) for task in run.tasks}
