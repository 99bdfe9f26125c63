"""Examples: texts with a label's position, made from rows and drawn few-shot by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.errors import DataError
from graft.specs.data import SplitSpec
from graft.specs.task import TaskSpec
from graft.tasks.labels import NONE_OF_THESE as NONE_OF_THESE
from graft.tasks.labels import LabelReader, cell_of, label_reader, refuse_row
from graft.tasks.messages import is_text, read_messages, refuse_empty_answer
from graft.tasks.rows import Row


@dataclass(frozen=True)
class Example:
    """An input of a head with its label.

    Attributes:
        texts: one text, or two; a prompt and its completion; or what each message of a chat says.
        label: the position of the label, or of the right choice (-1: none of the task's); 0 for heads without labels.
        choices: the row's own choices, if the task has them.
        roles: who says each text, of a chat's messages alone.
    """

    texts: tuple[str, ...]
    label: int
    choices: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def n_characters(self) -> int:
        """Length of its longest input; examples of similar length share a batch."""
        return sum(map(len, self.texts)) + max(map(len, self.choices), default=0)


def order_by_length(examples: Sequence[Example]) -> list[int]:
    """Return the positions of examples from the shortest to the longest: batches of neighbors save padding."""
    return sorted(range(len(examples)), key=lambda i: examples[i].n_characters)


def sort_by_length(examples: Sequence[Example]) -> list[Example]:
    """Return examples from the shortest to the longest, as `order_by_length`."""
    return [examples[i] for i in order_by_length(examples)]


def sort_by_texts(examples: Sequence[Example]) -> list[Example]:
    """Return examples by the length of their texts alone, whatever their choices.

    In this order gradients are gathered and masks learned: another one would learn other masks by the same seed.
    """
    return sorted(examples, key=lambda example: sum(map(len, example.texts)))


def split_by_length(examples: Sequence[Example], worth: int = 500) -> list[list[Example]]:
    """Part examples by length, where that saves padding, for passes one after the other.

    Twelve texts of 20 characters and four of 200 take 16 x 200 together, and 12 x 20 + 4 x 200 in two parts.

    Args:
        examples: in any order.
        worth: characters of padding that a further pass must save.
    """
    ordered = sort_by_length(examples)
    lengths, n = [example.n_characters for example in ordered], len(ordered)
    saved, cut = max(((cut * (lengths[-1] - lengths[cut - 1]), cut) for cut in range(1, n)), default=(0, 0))
    if saved < worth:
        return [ordered]
    return [*split_by_length(ordered[:cut], worth), *split_by_length(ordered[cut:], worth)]


def make_examples(rows: Sequence[Row], spec: SplitSpec, task: TaskSpec, *, labeled: bool = True) -> list[Example]:
    """Turn rows into examples by the task's columns and labels, or the split's own where it overrides them.

    Without `labeled` no label is read, and every example's is `NONE_OF_THESE`.

    Raises:
        DataError: a column is missing, a text is not text, choices are not two or more texts, or a label is outside
            the list; an answer is empty, or a chat has none; the row is named.
    """
    columns = task.columns_of(spec)
    read_label: LabelReader = label_reader(rows, spec, task) if labeled else (lambda *_: NONE_OF_THESE)
    examples = []
    for number, row in enumerate(rows, start=1):
        if spec.skip_blank and not any(str(cell_of(row, column, spec, number)).strip() for column in columns):
            continue
        texts, roles = _read_texts(row, columns, spec, task, number)
        choices = _read_choices(row, spec, task, number)
        examples.append(Example(texts, read_label(row, number, len(choices)), choices, roles))
    return examples


def draw_shots(
    examples: Sequence[Example], shots: int, labels: Sequence[str], seed: int, *, strict: bool
) -> list[Example]:
    """Draw `shots` examples of each class without replacement, in an order given by the seed.

    Args:
        examples: to draw from.
        shots: examples per class.
        labels: label names; without them `shots` examples are drawn in all, whatever their labels.
        seed: same seed, same examples, from the same order of examples and labels.
        strict: refuse a class with fewer examples; else all of its examples are taken.

    Raises:
        DataError: a class has too few examples and `strict` is on, or a class has none.
    """
    generator = np.random.default_rng(seed)
    if not labels:
        if strict and len(examples) < shots:
            raise DataError(f"{shots} shots were asked for, but there are {len(examples)} examples")
        return [examples[i] for i in generator.permutation(len(examples))[:shots]]
    drawn: list[Example] = []
    for position, label in enumerate(labels):
        pool = [example for example in examples if example.label == position]
        if not pool or (strict and len(pool) < shots):
            raise DataError(f"{shots} shots per class were asked for, but class {label!r} has {len(pool)} examples")
        drawn += [pool[i] for i in generator.permutation(len(pool))[:shots]]
    return [drawn[i] for i in generator.permutation(len(drawn))]


def _read_texts(
    row: Row, columns: Sequence[str], spec: SplitSpec, task: TaskSpec, number: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a row's texts, and the roles of those who say them where it is a chat."""
    if task.messages is not None:
        return read_messages(row, columns[0], spec, number)
    if task.head.entry.has_answers:
        refuse_empty_answer(row, columns[-1], spec, number)
    return tuple(_read_text(row, column, spec, number) for column in columns), ()


def _read_text(row: Row, column: str, spec: SplitSpec, number: int) -> str:
    value = cell_of(row, column, spec, number)
    if not is_text(value):
        raise refuse_row(spec, number, f"{column!r} is not a text")
    return str(value)


def _read_choices(row: Row, spec: SplitSpec, task: TaskSpec, number: int) -> tuple[str, ...]:
    if task.choices is None:
        return ()
    column = spec.choices or task.choices
    if not isinstance(column, str):
        return tuple(_read_text(row, one, spec, number) for one in column)
    value = cell_of(row, column, spec, number)
    if not isinstance(value, list) or len(value) < 2 or not all(map(is_text, value)):
        raise refuse_row(spec, number, f"{column!r} is not a list of two or more texts")
    return tuple(value)
