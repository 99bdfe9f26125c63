"""Splits: the data of a recipe's tasks as its start needs it, each split read once and kept no longer than its task.

Three things are asked of it before the first costly step: whether there are enough examples for the shots, which rows
are copies of training rows, and the digests by which an unfinished run is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.recipes.content import Digests, Used, fits_texts
from graft.recipes.copies import tell_copies
from graft.tasks.examples import NONE_OF_THESE, Example
from graft.tasks.task import Task
from graft.train.content import digest_of_examples


@dataclass(frozen=True)
class Splits:
    """The examples of a task's splits before any shots are drawn.

    Attributes:
        rows: all of the training split.
        train, validation, test: those with one of the task's labels.
        ood: name -> all of an out-of-distribution set.
    """

    rows: Sequence[Example]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    ood: Mapping[str, Sequence[Example]]

    @property
    def measured(self) -> dict[str, Sequence[Example]]:
        """Name -> examples, of all splits but the training split."""
        return {"validation": self.validation, "test": self.test, **self.ood}

    def texts(self) -> Iterator[Example]:
        """Yield the training split without labels, as `Task.training_texts` gives it."""
        return (dataclasses.replace(example, label=NONE_OF_THESE) for example in self.rows)


def read_splits(task: Task) -> Splits:
    """Read the splits of a task, whole.

    Raises:
        DataError: missing or malformed data, or too few examples for the shots.
    """
    whole = dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=None))
    rows = task.training_rows()
    train = task.keep_known(task.spec.data.train, rows)
    task.draw(train, strict=True)
    validation = whole.validation_examples()
    task.draw(validation, strict=False)
    ood = {name: task.ood_examples(name) for name in task.spec.ood}
    return Splits(rows, train, validation, task.test_examples(), ood)


def survey_data(recipe: Any, used: Mapping[str, Sequence[Used]]) -> dict[str, dict[str, Digests]]:
    """Read the data of a recipe's tasks, say which rows are copies, and return digests for `content_of_run`.

    Args:
        recipe: of whatever kind, as typed blocks.
        used: the recipe's key -> the tasks that it names, in order.

    Returns:
        The recipe's key -> task -> digests.

    Raises:
        DataError: as `read_splits`.
    """
    fits = fits_texts(recipe)
    return {key: {task.spec.name: _survey(task, limit, fits=fits) for task, limit in of} for key, of in used.items()}


def _survey(task: Task, limit: int | None, *, fits: bool) -> Digests:
    splits = read_splits(task)
    tell_copies(task.spec.name, splits.train, splits.measured)
    counted = {"train": splits.train, **splits.measured, "test": splits.test[:limit]}
    digests = {f"{name} examples": digest_of_examples(examples) for name, examples in counted.items()}
    return digests | ({"texts": digest_of_examples(splits.texts())} if fits else {})
