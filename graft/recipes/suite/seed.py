"""One seed of a suite: every method trained, joined and measured; everything it finds as plain data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.evaluate.task_similarity import compare_gradients, compare_texts
from graft.patch.format.writing import save_patch
from graft.recipes.clock import Clock
from graft.recipes.suite.bench import Figures, SuiteBench
from graft.recipes.suite.fusions import fuse_tuned, train_mix
from graft.recipes.suite.grafts import cross_grafts, cut_grafts, cut_shared, join_grafts
from graft.recipes.suite.sequences import run_sequence
from graft.recipes.suite.spec import BASE, SuiteSpec
from graft.specs.runtime import Runtime
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.task import Task


def run_suite_seed(
    suite: SuiteSpec, tasks: list[Task], beside: list[Task], seed: int, folder: Path, runtime: Runtime
) -> dict[str, Any]:
    """Run one seed into `folder`: a patch per task, and the returned figures; checkpoints are dropped at the end.

    Trainings that an earlier try left in `folder` are taken up where they were made with the same settings.

    Returns:
        seed; methods: name -> task -> figures on test; stages: sequence -> after each stage the accuracies on the
        tasks so far; found: method -> what was chosen on validation and what is known of it; grafts, and shared where
        asked for: task of the graft -> task -> accuracy; kinship: measure -> matrix over all tasks; seconds: of each
        method.
    """
    first, others = ([task.with_seed(seed) for task in group] for group in (tasks, beside))
    bench = SuiteBench(suite, tuple(first), tuple(others), seed=seed, folder=folder, runtime=runtime)
    clock = Clock()
    methods: dict[str, Figures] = {BASE: bench.measure(bench.open(suite.base))}
    clock.lap(BASE)
    methods["tuned"] = {task.spec.name: _measure_own(bench, task) for task in bench.tasks}
    clock.lap("tuned")
    patches = cut_grafts(bench, (*bench.tasks, *bench.beside))
    for name, patch in patches.items():
        save_patch(patch, folder / f"{name}.safetensors", force=True)
    crossed = cross_grafts(bench, patches)
    methods["graft"] = {name: crossed[name][name] for name in crossed}
    clock.lap("graft")
    result: dict[str, Any] = {"seed": seed, "stages": {}, "found": {}, "grafts": _accuracies(crossed)}
    _run_sequences(bench, methods, result, clock)
    _run_joined(bench, methods, result, clock)
    result |= {"kinship": _kinship(bench), "methods": {name: methods[name] for name in suite.methods}}
    shutil.rmtree(bench.models)  # as large as the models; their settings make them again
    return result | {"seconds": clock.seconds}


def _measure_own(bench: SuiteBench, task: Task) -> dict[str, float]:
    (head,) = bench.open(bench.tuned[task.spec.name], [task])
    return bench.measure_task(head, task)


def _run_sequences(bench: SuiteBench, methods: dict[str, Figures], result: dict[str, Any], clock: Clock) -> None:
    for name, how in bench.suite.sequences.items():
        course = run_sequence(bench, name, how)
        methods[name], result["stages"][name] = course.stages[-1], course.accuracies()
        clock.lap(name)


def _run_joined(bench: SuiteBench, methods: dict[str, Figures], result: dict[str, Any], clock: Clock) -> None:
    """Fusions, mixes and unions."""
    suite, found = bench.suite, result["found"]
    fused = {}
    mixed: list[Path] = []
    for name, blend in suite.fusions.items():
        fused[name] = fuse_tuned(bench, name, blend)
        methods[name], found[name] = bench.measure(bench.open(fused[name].path)), fused[name].found
        clock.lap(name)
    for name, mix in suite.mixes.items():
        mixed.append(train_mix(bench, mix, fused.get(mix.start)))
        heads = bench.open(mixed[-1])
        methods[name], found[name] = bench.measure(heads), {"validation_accuracy": bench.validate(heads)}
        clock.lap(name)
        if len(mixed) == 1 and suite.shared is not None:
            _cross_shared(bench, mixed[0], result)
            clock.lap("shared")
    for name, union in suite.unions.items():
        methods[name], found[name] = join_grafts(bench, union, mixed[0] if mixed else None)
        clock.lap(name)


def _cross_shared(bench: SuiteBench, joint: Path, result: dict[str, Any]) -> None:
    shared = cut_shared(bench, joint)
    for name, patch in shared.items():
        save_patch(patch, bench.folder / f"shared-{name}.safetensors", force=True)
    result["shared"] = _accuracies(cross_grafts(bench, shared))


def _accuracies(crossed: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    return {of: {task: figures["accuracy"] for task, figures in row.items()} for of, row in crossed.items()}


def _kinship(bench: SuiteBench) -> dict[str, list[list[float]]]:
    tasks = (*bench.tasks, *bench.beside)
    heads, examples = bench.open(bench.suite.base, tasks), [task.train_examples() for task in tasks]
    found = {"gradients": compare_gradients(heads, examples, bench.suite.localize.scope).tolist()}
    if isinstance(heads[0], SimilarityHead):
        found["texts"] = compare_texts(heads[0], examples).tolist()
    return found
