"""SeedRun: one seed of a recipe at work, with the few things that every kind of recipe does again and again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.errors import ConfigError
from graft.evaluate.calibration import expected_calibration_error, negative_log_likelihood
from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import predict_examples
from graft.evaluate.outcomes import Outcomes
from graft.files.location import locate
from graft.localize.localization import localize_skill
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.results.layout import patch_name
from graft.specs.adapter import AdapterSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import read_config, to_plain
from graft.specs.runtime import Runtime
from graft.specs.train import TrainSpec, once_told
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.sharing import can_share, could_share, share_model
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.adapter import content_of_adapter, train_adapter
from graft.train.content import content_of_training, hash_content
from graft.train.fine_tuning import resolve_settings, train_task
from graft.train.manifest import find_manifest
from graft.train.protection.protected_set import ProtectedSet

Model = str | Path


@dataclass(frozen=True)
class SeedContext:
    """Context of one seed of a run: the folders that it works in and leaves, and the runtime.

    Attributes:
        seed: of few-shot draws, training order, dropout and random masks.
        folder: of its state, which goes when the run is finished.
        patches: folder of the run's patches.
        runtime: where and in what precision it runs.
    """

    seed: int
    folder: Path
    patches: Path
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def results(self) -> Path:
        """File of its results, once it is done."""
        return self.folder / "seed.json"

    def patch_file(self, name: str) -> Path:
        """Return where the seed leaves a patch."""
        return self.patches / patch_name(name, self.seed)


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """Seed at work.

    Attributes:
        context: the seed, its folders and where it runs.
        cuts: base, tuned, task and config -> the graft, so that what several methods ask for is localized once.
    """

    context: SeedContext
    cuts: dict[tuple[Model, Path, str, LocalizeSpec], Patch] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of few-shot draws, training order, dropout and random masks."""
        return self.context.seed

    @property
    def folder(self) -> Path:
        """Folder of the seed's state."""
        return self.context.folder

    @property
    def runtime(self) -> Runtime:
        """Device and precision that it runs with."""
        return self.context.runtime

    @property
    def models(self) -> Path:
        """Folder of the checkpoints while the seed is at work."""
        return self.folder / "models"

    def train(
        self,
        base: Model,
        tasks: Sequence[Task],
        changes: Mapping[str, Any] | None = None,
        protect: Sequence[Mask] = (),
        adapter: AdapterSpec | None = None,
    ) -> Path:
        """Train; return the checkpoint. One of the same content that was made before, for any method, is taken up."""
        config, seed = resolve_settings(tasks, train_config(tasks[0], changes or {}))
        config = config if adapter is None else once_told(config)  # which trains plainly
        core = [mask for mask in protect if len(mask)]
        path, dtype = locate(base).path, self.runtime.dtype
        if adapter is None:
            mark = hash_content(content_of_training(path, tasks, config, seed, dtype, ProtectedSet(core).digest()))
        else:
            mark = hash_content(content_of_adapter(path, tasks, adapter, config, seed, dtype))
        out = self.models / mark[:16]
        if find_manifest(out, mark) is not None:
            return out
        if adapter is not None:
            return train_adapter(base, tasks, out, adapter, config=config, runtime=self.runtime, force=True).path
        options = self.runtime.options
        return train_task(base, tasks, out, config=config, protect=core, **options, resume=True, force=True).path

    def cut(self, base: Model, tuned: Path, task: Task, config: LocalizeSpec) -> Patch:
        """Cut a task's graft; one that was cut before, for whatever method, is taken up."""
        key = base, tuned, task.spec.name, config
        if key not in self.cuts:
            config = dataclasses.replace(config, seed=self.seed)
            self.cuts[key] = localize_skill(base, tuned, task, config, **self.runtime.options)
        return self.cuts[key]

    def merge(self, base: Model, patch: Patch, name: str) -> Path:
        """Write a checkpoint with a graft on it."""
        out = self.models / name
        merge_patches(Checkpoint.open(locate(base).path), [patch], out, force=True)
        return out

    def open_heads(self, model: Model, tasks: Sequence[Task]) -> list[Head]:
        """Open a model with the head of every task: loaded once for all heads that can share it."""
        heads: list[Head] = []
        for task in tasks:
            first = next((head for head in heads if can_share(head, task.spec)), None)
            heads.append(self._open(model, task) if first is None else share_model(first, task.spec))
        return heads

    def _open(self, model: Model, task: Task) -> Head:
        return open_head(locate(model).path, task.spec, self.runtime, seed=self.seed)


def measure_examples(head: Head, examples: list[Example], batch_size: int, name: str) -> dict[str, float]:
    """Return n, accuracy, ece and nll (nats) of a model on some examples; per token from the lm head."""
    return summarize_outcomes(predict_examples(head, examples, batch_size, name).outcomes())


def summarize_outcomes(outcomes: Outcomes) -> dict[str, float]:
    """Return n, accuracy, ece and nll (nats) of some outcomes."""
    metrics = {"accuracy": accuracy, "ece": expected_calibration_error, "nll": negative_log_likelihood}
    return {"n": len(outcomes)} | {key: float(metric(outcomes)) for key, metric in metrics.items()}


def train_config(task: Task, changes: Mapping[str, Any]) -> TrainSpec:
    """Return the task's train block with some keys replaced; that of a task without one is then plain training.

    Raises:
        ConfigError: an unknown key or a wrong type.
    """
    if not changes:
        return task.spec.train
    return read_config(TrainSpec, {**to_plain(once_told(task.spec.train)), **changes}, f"{task.spec.name}: train")


def refuse_apart(tasks: Sequence[Task], where: str) -> None:
    """Refuse tasks of which there is to be one model, and whose heads cannot be on one.

    Raises:
        ConfigError: naming two of them.
    """
    first = tasks[0].spec
    for other in (task.spec for task in tasks[1:]):
        if not could_share(first, other):
            raise ConfigError(
                f"{where}: {first.name!r} ({first.head.kind}) and {other.name!r} ({other.head.kind}) cannot share a "
                "model: heads on one kind of model can, and none with a layer of its own"
            )


def with_shots(task: Task, shots: int | None) -> Task:
    """Return the task with at most so many examples per class: the first of those that it draws anyway."""
    own = task.spec.shots
    fewer = shots if own is None or (shots is not None and shots < own) else own
    return dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=fewer))


def train_assignments(train: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a recipe's overrides of a task's train block as assignments, such as "train.lr=0.1"."""
    return tuple(f"train.{key}={json.dumps(value, default=str)}" for key, value in train.items())


def load_capped(path: Path, train: Mapping[str, Any], shots: int | None, max_length: int | None) -> Task:
    """Load a TASK file without its out-of-distribution sets, some keys of its train block replaced.

    Args:
        path: of the file.
        train: overrides of its train block.
        shots, max_length: at most so many; its own where they are fewer.

    Raises:
        ConfigError: naming file and key.
    """
    changes = train_assignments(train)
    task = with_shots(Task.load(path, changes), shots)
    longest = min(task.spec.max_length, max_length or task.spec.max_length)
    return Task.load(path, (*changes, f"shots={json.dumps(task.spec.shots)}", f"max_length={longest}", "ood={}"))
