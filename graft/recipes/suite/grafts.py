"""The tasks' grafts: each by itself on every task, all at once, and those within one model that learned all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.compose.composition import compose_patches
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.recipes.suite.bench import Figures, SuiteBench
from graft.recipes.suite.spec import UnionSpec
from graft.tasks.task import Task


def cut_grafts(bench: SuiteBench, tasks: Sequence[Task], density: float | None = None) -> dict[str, Patch]:
    """Task -> its graft from the model tuned on it alone, at another density than the suite's where one is given."""
    base, config = bench.suite.base, bench.suite.localize.at(density)
    return {task.spec.name: bench.localize(base, bench.tuned[task.spec.name], task, config) for task in tasks}


def cut_shared(bench: SuiteBench, joint: Path, density: float | None = None) -> dict[str, Patch]:
    """Task -> the graft that its examples find within one model that learned all tasks."""
    assert bench.suite.shared is not None
    base, config = bench.suite.base, bench.suite.shared.at(density)
    return {task.spec.name: bench.localize(base, joint, task, config) for task in bench.tasks}


def cross_grafts(bench: SuiteBench, patches: Mapping[str, Patch]) -> dict[str, Figures]:
    """Task of the graft -> task -> figures of the base with that graft."""
    heads = bench.open(bench.suite.base)
    found = {}
    for task in bench.tasks:
        with apply_patch(heads[0].model, patches[task.spec.name]):
            found[task.spec.name] = bench.measure(heads)
    return found


def join_grafts(bench: SuiteBench, union: UnionSpec, joint: Path | None) -> tuple[Figures, dict[str, Any]]:
    """The grafts of the suite's tasks composed: their figures, and what is known of them beforehand.

    Args:
        bench: the seed at work.
        union: how.
        joint: the first mix, from which shared grafts are cut.
    """
    if union.shared:
        assert joint is not None
        patches = cut_shared(bench, joint, union.density)
    else:
        patches = cut_grafts(bench, bench.tasks, union.density)
    whole = compose_patches(*patches.values(), on_overlap=union.on_overlap, base=bench.suite.base)
    heads = bench.open(bench.suite.base)
    with apply_patch(heads[0].model, whole):
        found = {"validation_accuracy": bench.validate(heads), "k": len(whole)}
        return bench.measure(heads), found | {"overlap": dict(whole.provenance.method["overlap"])}
