"""Run one seed of a recipe of several tasks: every method trained, joined and measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.evaluate.task_similarity import compare_gradients, compare_texts
from graft.patch.format.writing import save_patch
from graft.recipes.multitask.fusions import fuse_tuned, train_mix
from graft.recipes.multitask.grafts import cross_grafts, cut_grafts, cut_shared, join_grafts
from graft.recipes.multitask.seed_run import Metrics, MultitaskRun
from graft.recipes.multitask.sequences import run_sequence
from graft.recipes.timer import Timer
from graft.results.seeds import MultitaskSeed, Rows
from graft.specs.multitask import BASE
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.task import Task

SHARED = "shared-"  # before a task's name, of the graft that was found within the first mix
Crossed = dict[str, dict[str, float]]  # task of a graft -> task -> accuracy


def run_seed(run: MultitaskRun) -> MultitaskSeed:
    """Run one seed: leave a patch per task, return its metrics; checkpoints are dropped at the end.

    Trainings that an earlier try left are taken up where they were made with the same settings.
    """
    timer, recipe = Timer(), run.recipe
    methods: dict[str, Metrics] = {BASE: run.measure(run.open(recipe.base))}
    timer.mark(BASE)
    methods["tuned"] = {task.spec.name: _measure_own(run, task) for task in run.tasks}
    timer.mark("tuned")
    patches = cut_grafts(run, (*run.tasks, *run.beside))
    for name, patch in patches.items():
        save_patch(patch, run.context.patch_file(name), force=True)
    crossed = cross_grafts(run, patches)
    methods["graft"] = {name: crossed[name][name] for name in crossed}
    timer.mark("graft")
    stages = _run_sequences(run, methods, timer)
    found, shared = _run_joined(run, methods, timer)
    result = MultitaskSeed(
        seed=run.seed,
        methods={name: methods[name] for name in recipe.methods},
        stages=stages,
        found=found,
        grafts=_accuracies(crossed),
        kinship=_compare_tasks(run),
        seconds=timer.seconds,
        shared=shared,
    )
    shutil.rmtree(run.models)  # as large as the models; their settings make them again
    return result


def _measure_own(run: MultitaskRun, task: Task) -> dict[str, float]:
    (head,) = run.open(run.tuned[task.spec.name], [task])
    return run.measure_task(head, task)


def _run_sequences(run: MultitaskRun, methods: dict[str, Metrics], timer: Timer) -> dict[str, Rows]:
    stages = {}
    for name, how in run.recipe.sequences.items():
        result = run_sequence(run, name, how)
        methods[name], stages[name] = result.stages[-1], result.accuracies()
        timer.mark(name)
    return stages


def _run_joined(run: MultitaskRun, methods: dict[str, Metrics], timer: Timer) -> tuple[dict[str, Any], Crossed | None]:
    """Measure fusions, mixes and unions.

    Returns:
        What was found of each, and the accuracies of the shared grafts where the recipe asks for them.
    """
    recipe, found, shared = run.recipe, {}, None
    fused = {}
    mixed: list[Path] = []
    for name, blend in recipe.fusions.items():
        fused[name] = fuse_tuned(run, name, blend)
        methods[name], found[name] = run.measure(run.open(fused[name].path)), fused[name].facts
        timer.mark(name)
    for name, mix in recipe.mixes.items():
        mixed.append(train_mix(run, mix, fused.get(mix.start)))
        heads = run.open(mixed[-1])
        methods[name], found[name] = run.measure(heads), {"validation_accuracy": run.validate(heads)}
        timer.mark(name)
        if len(mixed) == 1 and recipe.shared is not None:
            shared = _cross_shared(run, mixed[0])
            timer.mark("shared")
    for name, union in recipe.unions.items():
        methods[name], found[name] = join_grafts(run, union, mixed[0] if mixed else None)
        timer.mark(name)
    return found, shared


def _cross_shared(run: MultitaskRun, joint: Path) -> Crossed:
    shared = cut_shared(run, joint)
    for name, patch in shared.items():
        save_patch(patch, run.context.patch_file(SHARED + name), force=True)
    return _accuracies(cross_grafts(run, shared))


def _accuracies(crossed: Mapping[str, Metrics]) -> Crossed:
    return {of: {task: metrics["accuracy"] for task, metrics in row.items()} for of, row in crossed.items()}


def _compare_tasks(run: MultitaskRun) -> dict[str, list[list[float]]]:
    tasks = (*run.tasks, *run.beside)
    heads, examples = run.open(run.recipe.base, tasks), [task.train_examples() for task in tasks]
    similarities = {"gradients": compare_gradients(heads, examples, run.recipe.localize.scope).tolist()}
    if isinstance(heads[0], SimilarityHead):
        similarities["texts"] = compare_texts(heads[0], examples).tolist()
    return similarities
