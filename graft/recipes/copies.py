"""Copies: rows that are measured, or chosen by, and that stand in the training split too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graft.tasks.examples import Example
from graft.tasks.loading import tell_once


def tell_copies(task: str, train: Sequence[Example], measured: Mapping[str, Sequence[Example]]) -> None:
    """Say on stderr how many rows of each other split are in the training split, word for word.

    A model may know these by heart, so that its accuracy on them is not that on new texts.

    Args:
        task: its name.
        train: its training split, whole.
        measured: name of another split -> its examples, whole.
    """
    known = set(map(_content_of, train))
    for name, examples in measured.items():
        if n_copies := sum(_content_of(example) in known for example in examples):
            tell_once(f"{task}: {n_copies:,} of {len(examples):,} rows of {name} are in the training split too")


def _content_of(example: Example) -> tuple[Sequence[str], ...]:
    return example.texts, example.choices
