from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from graft.errors import ConfigError, DataError
from graft.refit.data import collect_data, task_of
from graft.specs.refit import RefitSpec
from graft.tasks.examples import NONE_OF_THESE, Example
from graft.tasks.task import Task
from tests.chat_models import write_answers
from tests.models import toy_rows, write_rows, write_task

TEXTS = [Example((f"the film {word}",), NONE_OF_THESE) for word in ("good", "bad", "dull", "fine", "great")]


def test_the_whole_training_split_is_fitted_to_without_its_labels(task: Task) -> None:
    data = collect_data(task, None, RefitSpec())
    assert data.describe()["source"] == "train"
    assert len(data.train) == 160 > len(task.train_examples())
    assert {example.label for example in data.train} == {NONE_OF_THESE}
    assert {example.label for example in data.validation} == {0, 1}


def test_labels_count_where_asked_for_and_texts_have_none(task: Task) -> None:
    data = collect_data(task, None, RefitSpec(labels=0.5))
    assert (data.source, len(data.train)) == ("shots", 128)
    assert {example.label for example in data.train} == {0, 1}
    with pytest.raises(DataError, match=r"refit.labels is 0.5, and the texts have no labels"):
        collect_data(task, TEXTS, RefitSpec(labels=0.5))


def test_answers_count_as_labels_where_they_are_asked_for(tmp_path: Path) -> None:
    task = Task.load(write_answers(tmp_path / "task", shots=40))
    assert (collect_data(task, None, RefitSpec()).source, len(collect_data(task, None, RefitSpec()).train)) == (
        "train",
        96,
    )
    data = collect_data(task, None, RefitSpec(labels=1.0))
    assert (data.source, sorted(data.train, key=repr)) == ("shots", sorted(task.train_examples(), key=repr))
    texts = task.validation_examples()
    assert collect_data(task, texts, RefitSpec(labels=1.0)).source == "texts"  # which have their answers


def test_texts_may_lack_the_column_of_labels(task: Task, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in toy_rows(6, 5)])
    assert [example.label for example in task.read_texts(str(file))] == [NONE_OF_THESE] * 6


def test_the_seed_draws_the_texts_and_the_record_tells_them_apart(task: Task) -> None:
    few = RefitSpec(texts=20)
    drawn = [collect_data(task, None, dataclasses.replace(few, seed=seed)) for seed in (0, 0, 1)]
    hashes = [data.describe()["sha256"] for data in drawn]
    assert hashes[0] == hashes[1] != hashes[2]
    assert [len(data.train) for data in drawn] == [20, 20, 20]


def test_texts_that_are_held_out_are_not_fitted_to(task: Task) -> None:
    data = collect_data(task, TEXTS, RefitSpec(hold_out=0.4))
    assert (len(data.train), len(data.validation)) == (3, 2)
    assert {*data.train, *data.validation} == set(TEXTS)
    copies = collect_data(task, TEXTS * 3, RefitSpec(hold_out=0.4))
    assert (len(copies.train), len(copies.validation)) == (9, 6)
    assert not {*copies.train} & {*copies.validation}
    with pytest.raises(DataError, match="9 texts, 1 of them distinct, are too few"):
        collect_data(task, TEXTS[:1] * 9, RefitSpec(hold_out=0.4))
    with pytest.raises(DataError, match=r"1 texts are too few to hold out a share of 0\.2"):
        collect_data(task, TEXTS[:1], RefitSpec(hold_out=0.2))
    with pytest.raises(DataError, match="no text to fit to"):
        collect_data(task, [], RefitSpec())


def test_a_patch_names_its_task(tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "toy", max_length=20))
    found = task_of(task.describe(), tmp_path / "toy" / "train.jsonl")
    assert (found.spec.name, found.spec.labels) == (task.spec.name, task.spec.labels)
    assert (found.spec.head.texts, found.spec.max_length) == (task.spec.head.texts, 20)
    assert len(found.training_texts()) == 160


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"name": "moods"},
        {"head": {"kind": "similarity"}},
        {"name": "moods", "head": []},
        {"name": "moods", "head": "similarity"},
        {"name": "moods", "head": {"kind": "unknown"}, "labels": ["a", "b"]},
        {"name": ["moods"], "head": {"kind": "similarity"}, "labels": ["a", "b"]},
        {"name": "moods", "head": {"kind": "similarity", "texts": 7}, "labels": ["a", "b"]},
        {"name": "moods", "head": {"kind": ["similarity"]}, "labels": ["a", "b"]},
        {"name": "moods", "head": {"kind": "similarity"}, "labels": {"a": 1}},
        {"name": "moods", "head": {"kind": "similarity"}, "labels": ["a", "b"], "max_length": "long"},
    ],
)
def test_a_strangers_task_is_refused_in_one_line(described: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        task_of(described, tmp_path / "texts.jsonl")


def test_a_classifiers_task_is_read_without_what_tells_of_its_layer(tmp_path: Path) -> None:
    head = {"kind": "classifier", "architecture": "BertForSequenceClassification", "labels": ["b", "a"]}
    found = task_of({"name": "moods", "head": head, "labels": ["a", "b"]}, tmp_path / "texts.jsonl")
    assert found.spec.head.kind == "classifier"
