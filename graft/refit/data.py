"""The texts of a refit: those that values are fitted to, and those by which the epoch is chosen that is kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.errors import ConfigError, DataError
from graft.specs.data import ANSWER_COLUMNS
from graft.specs.head import HeadSpec
from graft.specs.reader import read_config
from graft.specs.refit import RefitSpec
from graft.specs.task import TaskSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
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
            for text in (*example.texts, *example.choices, *example.roles):
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        return {"source": self.source, "n": len(self.train), "sha256": digest.hexdigest()}

    def of(self, head: Head) -> RefitData:
        """Return the examples for which a head predicts something.

        Raises:
            DataError: there is none to fit to, or none to choose by.
        """
        head.inspect(self.train, "texts to fit to")
        head.inspect(self.validation, "validation")
        return RefitData(head.with_outputs(self.train), head.with_outputs(self.validation), self.source)


def collect_data(task: Task, texts: Sequence[Example] | None, config: RefitSpec) -> RefitData:
    """Collect the examples, those to fit to drawn by the seed where there are more than the settings ask for.

    Args:
        task: the texts of its whole training split are fitted to where no others are given, since the tuned model
            labels them; where labels or answers count, its training examples. Its validation examples choose.
        texts: other texts of the same kind, without labels.
        config: the refit block.

    Raises:
        DataError: malformed data, no text, too few to hold any out, or labels asked for of texts that have none.
    """
    head = task.spec.head.entry
    labeled = config.labels > 0 and (head.has_labels or head.has_answers)  # next tokens are their own labels
    if labeled and head.has_labels and texts is not None:
        raise DataError(f"refit.labels is {config.labels:g}, and the texts have no labels: leave them out")
    if texts is not None:
        source, train = "texts", list(texts)
    else:
        source, train = ("shots", task.train_examples()) if labeled else ("train", task.training_texts())
    if not train:
        raise DataError("there is no text to fit to")
    drawn = np.random.default_rng(config.seed).permutation(len(train))[: config.texts]
    train = [train[i] for i in drawn]
    if not config.hold_out:
        return RefitData(train, task.validation_examples(), source)
    held_out, remaining = _hold_out(train, config.hold_out)
    return RefitData(remaining, held_out, source)


def _hold_out(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Part examples into those held out, the first ones, and the others; copies of a text lie on one side.

    Raises:
        DataError: one side would be empty.
    """
    copies: dict[tuple[tuple[str, ...], ...], list[Example]] = {}
    for example in examples:
        copies.setdefault((example.texts, example.choices, example.roles), []).append(example)
    wanted = round(share * len(examples))
    held_out: list[Example] = []
    remaining: list[Example] = []
    for group in copies.values():
        (held_out if len(held_out) < wanted else remaining).extend(group)
    if not held_out or not remaining:
        distinct = f", {len(copies)} of them distinct," if len(copies) < len(examples) else ""
        raise DataError(f"{len(examples)} texts{distinct} are too few to hold out a share of {share:g} to choose by")
    return held_out, remaining


def task_of(description: Mapping[str, Any], texts: Path) -> Task:
    """Return the task that a patch describes, over a file of texts.

    Args:
        description: a patch's `provenance.task`.
        texts: a file that every split is read from.

    Raises:
        ConfigError: the patch does not say its head and labels.
    """
    path = str(texts.absolute())
    described, keys = description.get("head"), [field.name for field in dataclasses.fields(HeadSpec)]
    known = {
        key: description[key]
        for key in ("name", "labels", "max_length", "choices", *ANSWER_COLUMNS)
        if description.get(key)
    }
    if not isinstance(described, Mapping) or "kind" not in described or "name" not in known:
        raise ConfigError("the patch names no task with its head: give --task")
    # a classifier's row also tells of its layer, and a template that is the kind's own is written out
    head = {key: described[key] for key in keys if described.get(key) is not None}
    splits = {"train": path, "validation": path, "test": path}
    spec = read_config(TaskSpec, {**known, "head": head, "data": splits}, "the patch's task")
    return Task(spec, texts.parent)
