"""The tasks one after another: plainly, with replay, or by continual grafting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graft.patch.mask import Mask
from graft.recipes.multitask.seed_run import Metrics, MultitaskRun
from graft.recipes.seed_run import Model, with_shots
from graft.results.seeds import Rows
from graft.specs.multitask import SequenceSpec
from graft.tasks.task import Task


@dataclass(frozen=True)
class SequentialResult:
    """Sequence of trainings, measured after each.

    Attributes:
        last: the checkpoint after the last stage.
        stages: after each stage, the metrics on the tasks learned so far.
    """

    last: Path
    stages: tuple[Metrics, ...]

    def accuracies(self) -> Rows:
        """Return the accuracies on tasks 0 ... s after stage s."""
        return tuple(tuple(metrics["accuracy"] for metrics in stage.values()) for stage in self.stages)


def run_sequence(run: MultitaskRun, name: str, how: SequenceSpec) -> SequentialResult:
    """Learn every task in turn, and measure after each."""
    model: Model = run.recipe.base
    learned: list[Mask] = []
    stages = []
    for number, task in enumerate(run.tasks):
        trained = [task, *_replayed(run.tasks[:number], how.replay)]
        tuned = run.train(model, trained, how.train, protect=learned)
        if how.graft:
            patch = run.localize(model, tuned, task, run.recipe.localize.at(how.density))
            learned.append(patch.mask)
            tuned = run.merge(model, patch, f"{name}-{number}")
        model = tuned
        stages.append(run.measure(run.open(model), only=number + 1))
    return SequentialResult(Path(model), tuple(stages))


def _replayed(earlier: tuple[Task, ...], shots: int) -> list[Task]:
    return [with_shots(task, shots) for task in earlier] if shots else []
