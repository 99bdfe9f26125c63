"""The tasks one after another: plainly, with replay, or by continual grafting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graft.patch.mask import Mask
from graft.recipes.suite.bench import Figures, SuiteBench
from graft.recipes.suite.spec import SequenceSpec
from graft.recipes.trainings import Model, with_shots
from graft.tasks.task import Task


@dataclass(frozen=True)
class Course:
    """A sequence that was gone through.

    Attributes:
        last: the checkpoint after the last stage.
        stages: after each stage, the figures on the tasks learned so far.
    """

    last: Path
    stages: tuple[Figures, ...]

    def accuracies(self) -> list[list[float]]:
        """Row s: the accuracies on tasks 0 ... s after stage s."""
        return [[figures["accuracy"] for figures in stage.values()] for stage in self.stages]


def run_sequence(bench: SuiteBench, name: str, how: SequenceSpec) -> Course:
    """Learn every task in turn, and measure after each."""
    model: Model = bench.suite.base
    kept: list[Mask] = []
    stages = []
    for number, task in enumerate(bench.tasks):
        lesson = [task, *_replayed(bench.tasks[:number], how.replay)]
        tuned = bench.train(model, lesson, how.train, protect=kept)
        if how.graft:
            patch = bench.localize(model, tuned, task, bench.suite.localize.at(how.density))
            kept.append(patch.mask)
            tuned = bench.merge(model, patch, f"{name}-{number}")
        model = tuned
        stages.append(bench.measure(bench.open(model), only=number + 1))
    return Course(Path(model), tuple(stages))


def _replayed(earlier: tuple[Task, ...], shots: int) -> list[Task]:
    return [with_shots(task, shots) for task in earlier] if shots else []
