"""Rows that a program holds: the task of the same rows in files."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset

from graft.errors import ConfigError, DataError
from graft.tasks.task import Task
from tests.models import MOODS, toy_content, toy_rows

ROWS = toy_rows(12, 0)


def task_of(rows: Any, **more: Any) -> Task:
    return Task.of(**({"train": rows, "labels": MOODS} | more))


def test_it_is_the_task_of_the_same_rows_in_files(task: Task) -> None:
    content = toy_content()
    splits = {name: toy_rows(n, seed) for seed, (name, n) in enumerate({"train": 160, "validation": 48}.items())}
    held = Task.of(**splits, labels=content["labels"], head=content["head"], shots=64, name="moods")
    assert held.train_examples() == task.train_examples()
    assert held.validation_examples() == task.validation_examples()
    assert held.describe() == task.describe()
    assert held.files == []
    assert held.with_seed(3).train_examples() == task.with_seed(3).train_examples()


def test_names_of_class_labels_stand_for_positions() -> None:
    names = list(reversed(MOODS))
    flipped = [row | {"label": 1 - row["label"]} for row in ROWS]
    rows = Dataset.from_list(flipped).cast_column("label", ClassLabel(names=names))
    assert task_of(rows).train_examples() == task_of(ROWS).train_examples()  # by name, whatever their order
    assert Task.of(train=rows).spec.labels == tuple(names)
    with pytest.raises(DataError, match="outside the list"):
        task_of(rows, labels=["no", "yes"]).train_examples()


@pytest.mark.parametrize(
    ("rows", "fact"), [("text", "not a str"), ([1], "with a int in it"), ([], "is empty"), (7, "not a int")]
)
def test_other_things_than_rows_are_refused(rows: Any, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        task_of(rows)


def test_errors_name_the_split_and_the_row() -> None:
    with pytest.raises(DataError, match=r"train rows, row 1: no column 'sentence'"):
        task_of(ROWS, text="sentence").train_examples()
    with pytest.raises(DataError, match=r"has no test rows"):
        task_of(ROWS).test_examples()
    with pytest.raises(ConfigError, match="unknown key 'labls'"):
        task_of(ROWS, labls=MOODS)
    ood = task_of(ROWS, ood={"other": ROWS}).ood_examples("other")
    assert len(ood) == len(ROWS)
