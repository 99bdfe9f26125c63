"""The tasks' grafts: each by itself on every task, all at once, and those within one model that learned all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.compose.composition import compose_patches
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.recipes.multitask.seed_run import Metrics, MultitaskRun
from graft.specs.multitask import UnionSpec
from graft.tasks.task import Task


def cut_grafts(run: MultitaskRun, tasks: Sequence[Task], density: float | None = None) -> dict[str, Patch]:
    """Return task -> its graft from the model tuned on it alone, at another density where one is given."""
    base, config = run.recipe.base, run.recipe.localize.at(density)
    return {task.spec.name: run.localize(base, run.tuned[task.spec.name], task, config) for task in tasks}


def cut_shared(run: MultitaskRun, joint: Path, density: float | None = None) -> dict[str, Patch]:
    """Return task -> the graft that its examples find within one model that learned all tasks."""
    assert run.recipe.shared is not None
    base, config = run.recipe.base, run.recipe.shared.at(density)
    return {task.spec.name: run.localize(base, joint, task, config) for task in run.tasks}


def cross_grafts(run: MultitaskRun, patches: Mapping[str, Patch]) -> dict[str, Metrics]:
    """Return task of the graft -> task -> metrics of the base with that graft."""
    heads = run.open(run.recipe.base)
    metrics = {}
    for task in run.tasks:
        with apply_patch(heads[0].model, patches[task.spec.name]):
            metrics[task.spec.name] = run.measure(heads)
    return metrics


def join_grafts(run: MultitaskRun, union: UnionSpec, joint: Path | None) -> tuple[Metrics, dict[str, Any]]:
    """Compose the grafts of all tasks; return their metrics, and what is known of them beforehand.

    Args:
        run: the seed at work.
        union: how.
        joint: the first mix, from which shared grafts are cut.
    """
    if union.shared:
        assert joint is not None
        patches = cut_shared(run, joint, union.density)
    else:
        patches = cut_grafts(run, run.tasks, union.density)
    union_patch = compose_patches(*patches.values(), on_overlap=union.on_overlap, base=run.recipe.base)
    heads = run.open(run.recipe.base)
    with apply_patch(heads[0].model, union_patch):
        facts = {"validation_accuracy": run.validate(heads), "k": len(union_patch)}
        return run.measure(heads), facts | {"overlap": dict(union_patch.provenance.method["overlap"])}
