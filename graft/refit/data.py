"""The texts of a refit: those that values are fitted to, and those by which the epoch is chosen that is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.errors import DataError
from graft.specs.refit import RefitSpec
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
    return RefitData([train[i] for i in sorted(drawn)], task.validation_examples(), source)
