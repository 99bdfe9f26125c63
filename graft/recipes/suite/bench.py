"""SuiteBench: one seed of a suite and where it is run, with the few things that every method does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graft.config import read_config, to_plain
from graft.evaluate.calibration import expected_calibration_error, negative_log_likelihood
from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import predict_examples
from graft.localize.localization import localize_skill
from graft.localize.spec import LocalizeSpec
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.recipes.bench import Machine
from graft.recipes.suite.spec import SuiteSpec
from graft.tasks.head import Head, open_head, share_model
from graft.tasks.spec import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.location import locate
from graft.train.fine_tuning import train_task
from graft.train.protection.core import Core
from graft.train.record import print_training

Model = str | Path
Figures = dict[str, dict[str, float]]  # task -> accuracy, ece, nll, n


@dataclass(frozen=True)
class SuiteBench:
    """One seed at work.

    Attributes:
        suite: the whole recipe.
        tasks, beside: under this seed.
        seed: of few-shot draws, training order and dropout.
        folder: of the seed's outputs.
        machine: where it runs.
    """

    suite: SuiteSpec
    tasks: tuple[Task, ...]
    beside: tuple[Task, ...]
    seed: int
    folder: Path
    machine: Machine

    @property
    def models(self) -> Path:
        """Where the checkpoints lie while the seed is at work."""
        return self.folder / "models"

    @property
    def where(self) -> dict[str, Any]:
        """Device and dtype, as options."""
        return {"device": self.machine.device, "dtype": self.machine.dtype}

    @cached_property
    def tuned(self) -> dict[str, Path]:
        """Task -> the checkpoint tuned on it alone, those beside the others among them."""
        return {task.spec.name: self.train(self.suite.base, [task]) for task in (*self.tasks, *self.beside)}

    def train(
        self, base: Model, tasks: Sequence[Task], changes: Mapping[str, Any] | None = None, protect: Sequence[Mask] = ()
    ) -> Path:
        """The checkpoint of a training; one that was made before, for whatever method, is taken up."""
        config = train_config(tasks[0], changes or {})
        core = [mask for mask in protect if len(mask)]
        name = print_training(locate(base).path, tasks, config, self.seed, self.machine.dtype, Core(core).digest())[:16]
        out = self.models / name
        if not out.is_dir():
            train_task(base, tasks, out, config=config, protect=core, **self.where, resume=True)
        return out

    def localize(self, base: Model, tuned: Path, task: Task, config: LocalizeSpec | None = None) -> Patch:
        """A task's graft, by the suite's `localize` block where no other is given."""
        config = dataclasses.replace(config or self.suite.localize, seed=self.seed)
        return localize_skill(base, tuned, task, config, **self.where)

    def merge(self, base: Model, patch: Patch, name: str) -> Path:
        """A checkpoint with a graft on it."""
        out = self.models / name
        merge_patches(Checkpoint.open(locate(base).path), [patch], out, force=True)
        return out

    def open(self, model: Model, tasks: Sequence[Task] = ()) -> list[Head]:
        """A model once, with the head of every task of the suite, or of those given."""
        first, *others = tasks or self.tasks
        head = open_head(locate(model).path, first.spec, **self.where, seed=self.seed)
        return [head, *(share_model(head, task.spec) for task in others)]

    def measure(self, heads: Sequence[Head], only: int | None = None) -> Figures:
        """Figures on the test split of every task, or of the first few."""
        pairs = list(zip(heads, self.tasks, strict=True))[:only]
        return {task.spec.name: self.measure_task(head, task) for head, task in pairs}

    def measure_task(self, head: Head, task: Task) -> dict[str, float]:
        """Figures of one model on one task's test split."""
        evaluate = self.suite.evaluate
        examples = task.test_examples(evaluate.limit)
        outcomes = predict_examples(head, examples, evaluate.batch_size, task.spec.name).outcomes()
        metrics = {"accuracy": accuracy, "ece": expected_calibration_error, "nll": negative_log_likelihood}
        return {"n": len(outcomes)} | {key: float(metric(outcomes)) for key, metric in metrics.items()}

    def validate(self, heads: Sequence[Head]) -> float:
        """Mean accuracy over tasks on validation, by which settings are chosen."""
        size = self.suite.evaluate.batch_size
        pairs = zip(heads, self.tasks, strict=True)
        each = [head.accuracy(task.validation_examples(), batch_size=size, label="validation") for head, task in pairs]
        return sum(each) / len(each)


def train_config(task: Task, changes: Mapping[str, Any]) -> TrainSpec:
    """The task's train block with some keys replaced.

    Raises:
        ConfigError: an unknown key or a wrong type.
    """
    return read_config(TrainSpec, {**to_plain(task.spec.train), **changes}, f"{task.spec.name}: train")


def with_shots(task: Task, shots: int | None) -> Task:
    """The task with at most so many examples per class: the first of those that it draws anyway."""
    own = task.spec.shots
    fewer = shots if own is None or (shots is not None and shots < own) else own
    return dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=fewer))
