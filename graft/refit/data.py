"""The texts of a refit: those that values are fitted to, and those by which the epoch is chosen that is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.errors import ConfigError, DataError
from graft.specs.reader import read_config
from graft.specs.refit import RefitSpec
from graft.specs.task import TaskSpec
from graft.tasks.examples import Example
from graft.tasks.task import Task


@dataclass(frozen=True, eq=False)
class RefitData:
    """Examples of a refit.

    Attributes:
        train: to fit to; labels are NONE_OF_THESE where they are not known.
        validation: to choose by.
        source: where the texts came from: "train", the task's training split; "shots", its training examples with
            their labels; or "texts", others.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    source: str

    def describe(self) -> dict[str, Any]:
        """Return source, number and hash of the texts for a patch's provenance; the texts themselves stay here."""
        digest = hashlib.sha256()
        for example in self.train:
            for text in (*example.texts, *example.choices):
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        return {"source": self.source, "n": len(self.train), "sha256": digest.hexdigest()}


def collect_data(task: Task, texts: Sequence[Example] | None, config: RefitSpec) -> RefitData:
    """Collect the examples, those to fit to drawn by the seed where there are more than the settings ask for.

    Args:
        task: the texts of its whole training split are fitted to where no others are given, since the tuned model
            labels them; where labels count, its training examples. Its validation examples choose.
        texts: other texts of the same kind, without labels.
        config: the refit block.

    Raises:
        DataError: malformed data, no text, or labels asked for of texts that have none.
    """
    if config.labels and texts is not None:
        raise DataError(f"refit.labels is {config.labels:g}, and the texts have no labels: leave them out")
    if texts is not None:
        source, train = "texts", list(texts)
    else:
        source, train = ("shots", task.train_examples()) if config.labels else ("train", task.training_texts())
    if not train:
        raise DataError("there is no text to fit to")
    drawn = np.random.default_rng(config.seed).permutation(len(train))[: config.texts]
    train = [train[i] for i in drawn]
    n_held_out = round(config.hold_out * len(train))
    if not n_held_out:
        return RefitData(train, task.validation_examples(), source)
    return RefitData(train[n_held_out:], train[:n_held_out], source)


def task_of(description: Mapping[str, Any], texts: Path) -> Task:
    """Return the task that a patch describes, over a file of texts.

    Args:
        description: a patch's `provenance.task`.
        texts: a file that every split is read from.

    Raises:
        ConfigError: the patch does not say its head and labels.
    """
    path = str(texts.absolute())
    head = {key: value for key, value in dict(description.get("head") or {}).items() if value is not None}
    known = {key: description[key] for key in ("name", "labels", "choices") if description.get(key)}
    splits = {"train": path, "validation": path, "test": path}
    if not head or "name" not in known:
        raise ConfigError("the patch names no task with its head: give --task")
    spec = read_config(TaskSpec, {**known, "head": head, "data": splits}, "the patch's task")
    return Task(spec, texts.parent)
