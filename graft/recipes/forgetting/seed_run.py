"""ForgettingRun: one seed of a recipe about forgetting at work, with what several of its methods start from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from graft.evaluate.evaluation import predict_examples
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.recipes.forgetting.flips import count_flips
from graft.recipes.seed_run import Model, SeedRun, summarize_outcomes, with_shots
from graft.specs.forgetting import ForgettingSpec, MethodSpec, ProtectSpec
from graft.specs.importance import ImportanceSpec
from graft.specs.reader import read_config, to_plain
from graft.tasks.task import Task
from graft.train.importance.general import draw_region, measure_general
from graft.train.importance.importance_file import save_importance
from graft.train.importance.measuring import Importance

Metrics = dict[str, dict[str, dict[str, float]]]  # task -> "test", "validation" -> score, n, accuracy, ece, nll, flips


@dataclass(frozen=True)
class MeasuredTask:
    """A task, how many rows of its test split are measured, and whether it is replayed."""

    task: Task
    limit: int | None
    replay: bool = True

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.spec.name


@dataclass(frozen=True)
class Measured:
    """A model on some tasks.

    Attributes:
        metrics: of each task on test and validation.
        right: general task with answers -> which rows of its test split are right.
    """

    metrics: Metrics
    right: Mapping[str, tuple[bool, ...]]

    def since(self, before: Measured) -> Metrics:
        """Return the metrics, on test with the flips since another model, which was measured on these general tasks."""
        flips = {task: count_flips(before.right[task], now) for task, now in self.right.items()}
        return {
            task: {**of_splits, "test": {**of_splits["test"], **flips.get(task, {})}}
            for task, of_splits in self.metrics.items()
        }


@dataclass(frozen=True)
class ForgettingRun(SeedRun):
    """Seed at work.

    Attributes:
        recipe: the whole recipe.
        general, domains: under this seed.
        skill: what the model is given first, where there is such.
        measured: importance at the start, which several methods share.
    """

    recipe: ForgettingSpec
    general: tuple[MeasuredTask, ...]
    domains: tuple[MeasuredTask, ...]
    skill: Task | None = None
    measured: dict[ImportanceSpec, Importance] = field(default_factory=dict)

    @cached_property
    def patch(self) -> Patch | None:
        """The skill that the model is given first; its file is left among the run's patches."""
        if self.skill is None or self.recipe.start is None:
            return None
        file = self.context.patch_file("start")
        if not file.is_file():
            tuned = self.train(self.recipe.base, [self.skill])
            save_patch(self.cut(self.recipe.base, tuned, self.skill, self.recipe.start.localize), file)
        return load_patch(file)

    @cached_property
    def start(self) -> Model:
        """The model that learns each domain."""
        return self.recipe.base if self.patch is None else self.merge(self.recipe.base, self.patch, "start")

    def learn(self, domain: Task, how: MethodSpec) -> Path:
        """Return the checkpoint that learned a domain by a method."""
        tasks = [domain, *self._replayed(how.replay)]
        protect = [] if how.protect is None else [self.region(how.protect)]
        tuned = self.train(self.start, tasks, dict(how.train) | self._regularized(how), protect, how.peft)
        if how.graft is None:
            return tuned
        return self.merge(self.start, self.cut(self.start, tuned, domain, how.graft), "graft")

    def region(self, how: ProtectSpec) -> Mask:
        """Return the weights that a method keeps unchanged."""
        if how.by == "patch":
            assert self.patch is not None
            return self.patch.mask
        if how.by == "random":
            size = how.share if how.share is not None else len(self.patch.mask) if self.patch else None
            assert size is not None
            return draw_region(self.start, size, how.scope, self.seed)
        assert how.share is not None
        return self._important(ImportanceSpec(how.by, how.scope, how.micro_batch)).core(how.share)

    def measure(self, model: Model, tasks: Sequence[MeasuredTask]) -> Measured:
        """Measure a model on validation and test of some tasks."""
        heads, size = self.open_heads(model, [item.task for item in tasks]), self.recipe.evaluate.batch_size
        metrics: Metrics = {}
        right: dict[str, tuple[bool, ...]] = {}
        for head, item in zip(heads, tasks, strict=True):
            task = item.task
            sets = {"test": task.test_examples(item.limit), "validation": task.validation_examples()}
            outcomes = {key: predict_examples(head, rows, size, key).outcomes() for key, rows in sets.items()}
            measured = {key: summarize_outcomes(found) for key, found in outcomes.items()}
            metrics[item.name] = {key: {"score": score_of(task, row), **row} for key, row in measured.items()}
            if item in self.general and not is_text(task):
                right[item.name] = tuple(outcomes["test"].correct.tolist())
        return Measured(metrics, right)

    def drop_models(self) -> None:
        """Remove the checkpoints but the start, as large as the model each; their settings make them again."""
        for folder in self.models.iterdir() if self.models.is_dir() else ():
            if folder.name != "start":
                shutil.rmtree(folder)

    def _replayed(self, shots: int) -> list[Task]:
        """Return the general tasks, few examples of each, that are trained along."""
        return [with_shots(item.task, shots) for item in self.general if item.replay] if shots else []

    def _regularized(self, how: MethodSpec) -> dict[str, Any]:
        """Return the method's block, in which a file takes the place of a score's name."""
        if how.regularize is None:
            return {}
        block, name = to_plain(how.regularize), how.regularize.importance
        if name in ("fisher", "saliency"):
            file = self.folder / f"{name}.safetensors"
            if not file.is_file():
                config = read_config(ImportanceSpec, {"method": name}, "regularize")
                save_importance(self._important(config).keep(1.0), file)
            block["importance"] = str(file)
        return {"regularize": block}

    def _important(self, config: ImportanceSpec) -> Importance:
        if config not in self.measured:
            tasks = [item.task for item in self.general]
            self.measured[config] = measure_general(self.start, tasks, config, self.runtime)
        return self.measured[config]


def score_of(task: Task, metrics: Mapping[str, float]) -> float:
    """Return a task's one score, higher is better: accuracy, or -NLL per token in nats where there are no labels."""
    return -metrics["nll"] if is_text(task) else metrics["accuracy"]


def is_text(task: Task) -> bool:
    """Return whether a task is scored in nats per token."""
    return task.spec.head.kind == "lm"
