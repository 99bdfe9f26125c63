"""Copies: rows that are measured, or chosen by, and that stand in the training split too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from graft.tasks.examples import Example
from graft.tasks.loading import tell_once
from graft.tasks.task import Task


def tell_copies(task: Task) -> None:
    """Say on stderr how many rows of each other split are in the training split, word for word.

    A model may know these by heart, so that its accuracy on them is not that on new texts.

    Raises:
        DataError: missing or malformed data.
    """
    whole = dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=None))
    known = set(map(_content_of, whole.train_examples()))
    splits = {"validation": whole.validation_examples(), "test": whole.test_examples()}
    splits |= {name: whole.ood_examples(name) for name in task.spec.ood}
    for name, examples in splits.items():
        if n_copies := sum(_content_of(example) in known for example in examples):
            tell_once(
                f"{task.spec.name}: {n_copies:,} of {len(examples):,} rows of {name} are in the training split too"
            )


def _content_of(example: Example) -> tuple[Sequence[str], ...]:
    return example.texts, example.choices
