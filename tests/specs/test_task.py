from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.errors import ConfigError, DataError
from graft.specs.data import SplitSpec
from graft.tasks.task import Task
from tests.models import CHOICE, VERBALIZER, toy_content, write_rows, write_task, write_yaml


def test_every_key_of_a_task_file_is_read(tmp_path: Path) -> None:
    content = toy_content(
        text=["first", "second"],
        label="mood",
        max_length=16,
        seed=3,
        ood={"meals": {"path": "meals.jsonl", "label": "feeling", "labels": ["down", "up"], "map": {"down": "sad"}}},
        head={"kind": "classifier"},
        train={"optimizer": "adamw", "lr": "1e-4", "steps": 7, "weight_decay": 0.1, "scope": "layers", "seed": 5},
    )
    spec = Task.load(write_yaml(tmp_path / "task.yaml", content)).spec
    assert spec.text == ("first", "second")
    assert (spec.label, spec.max_length, spec.seed, spec.shots) == ("mood", 16, 3, 64)
    assert spec.ood["meals"] == SplitSpec("meals.jsonl", label="feeling", labels=("down", "up"), map={"down": "sad"})
    assert spec.head.kind == "classifier"
    train = spec.train
    assert (train.optimizer, train.lr, train.steps, train.scope, train.seed) == ("adamw", 1e-4, 7, "layers", 5)


def test_the_data_may_be_on_the_hub(tmp_path: Path) -> None:
    place = {"path": "org/moods", "name": "en", "split": "test"}
    content = toy_content(data={"train": place, "validation": place, "test": place})
    assert Task.load(write_yaml(tmp_path / "t.yaml", content)).spec.data.test == SplitSpec("org/moods", "en", "test")


MEALS: dict[str, Any] = {"path": "meals.jsonl"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lables": ["a", "b"]}, r"unknown key 'lables' \(did you mean 'labels'\?\); allowed are name, data, labels"),
        ({"head": {"kind": "similarity", "text": ["a"]}}, r"head: unknown key 'text' .*allowed are kind, texts, templ"),
        ({"train": {"learning": 1}}, r"train: unknown key 'learning'.*allowed are optimizer, lr, "),
        ({"data": {"train": "a.jsonl"}}, r"data: the key 'validation' is missing"),
        (
            {"head": {"kind": "oracle"}},
            r"head: kind: must be one of similarity, .*, verbalizer, choice, lm, completion, not",
        ),
        ({"head": {"texts": ["one"]}}, r"head.texts has 1 texts for 2 labels"),
        ({"head": {"template": "no place"}}, r"template needs a \{\}"),
        ({"head": {"words": ["a", "b"]}}, r"head: words goes with kind verbalizer, not with similarity"),
        (
            {"head": {"kind": "lm", "template": "{}"}},
            r"template goes with kind similarity and verbalizer and choice",
        ),
        ({"head": {"kind": "verbalizer"}}, r'head: the verbalizer needs a template, such as "\{text\} It was'),
        ({"head": {**VERBALIZER, "words": ["good"]}}, r"head.words has 1 words for 2 labels"),
        ({"head": {**VERBALIZER, "template": "{txt} {mask}"}}, r"must hold \{text\}, \{mask\} and no other place"),
        ({"head": {**VERBALIZER, "template": "{text} {mask} {mask}"}}, r"no other place, \{mask\} once"),
        ({"head": VERBALIZER, "text": ["a", "b"]}, r"must hold \{text_a\}, \{text_b\}, \{mask\} and no other"),
        ({"head": CHOICE}, r"head.kind choice needs choices"),
        ({"head": CHOICE | {"normalize": "words"}}, r"head: normalize: must be one of none, tokens, bytes, not"),
        ({"head": CHOICE | {"template": "{choice} {text}"}, "choices": "c"}, r"must end with \{choice\}"),
        ({"head": VERBALIZER, "choices": "c"}, r"choices go with head.kind similarity and choice, not with verbalizer"),
        ({"choices": "c"}, r"head.texts belong to labels: with choices each row brings its own"),
        ({"head": {"kind": "lm"}}, r"head.kind lm reads one text column and no labels"),
        ({"head": {"kind": "lm"}, "labels": [], "text": ["a", "b"]}, r"head.kind lm reads one text column$"),
        ({"labels": []}, r"labels must be two or more different names"),
        ({"labels": ["same", "same"]}, r"labels must be two or more different names"),
        ({"labels": ["only"]}, r"labels must be two or more different names"),
        ({"text": ["a", "b", "c"]}, r"text must be one column, or two"),
        ({"shots": 0}, r"shots must be 1 or more"),
        ({"shots": "many"}, r"shots: must be a whole number"),
        ({"seed": -1}, r"seed must be"),
        ({"max_length": 0}, r"max_length must be"),
        ({"train": {"lr": 0}}, r"train: lr must be above 0"),
        ({"train": {"lr": ".nan"}}, r"train: lr: must be a number"),
        ({"train": {"steps": 0}}, r"train: steps must be above 0"),
        ({"train": {"weight_decay": -1}}, r"train: weight_decay must"),
        ({"train": {"scope": "("}}, r"train: .*regular expression"),
        ({"ood": {"test": "meals.jsonl"}}, r"ood: .*'test'"),
        (
            {"ood": {"o": MEALS | {"map": {"gladd": "glad"}}}},
            r"ood.o: map: 'gladd' is none of this file's labels \(did you",
        ),
        (
            {"ood": {"o": MEALS | {"map": {"glad": "gald"}}}},
            r"map: 'gald' is none of the task's labels \(did you mean 'gl",
        ),
        ({"ood": {"o": MEALS | {"map": {0: "glad"}}}}, r"ood.o: map: a key must be a text, not 0: quote it"),
        ({"ood": {"o": MEALS | {"map": {"0": "glad"}}}}, r"map: '0' is none of this file's labels: sad, glad"),
        ({"ood": {"o": MEALS | {"labels": ["up", "down"], "map": {"glad": "glad"}}}}, r"file's labels: up, down"),
        ({"ood": {"o": MEALS | {"labels": ["up", "up"]}}}, r"ood.o: labels must be different"),
        ({"ood": {"o": MEALS | {"text": ["a", "b"]}}}, r"ood.o: text must be as many columns as the task's"),
        ({"ood": {"o": MEALS | {"choices": "c"}}}, r"ood.o: choices is a column of tasks with choices"),
        ({"ood": {"o": "a\nb.jsonl"}}, r"ood.o: path: 'a\\nb.jsonl' is not the name of a file"),
        ({"data": {"train": "a", "validation": "a", "test": ""}}, r"data.test: path: '' is not the name of a file"),
        ({"labels": [False, True]}, r"labels\[0\]: must be a text, not False: YAML reads yes, no, on, off"),
    ],
)
def test_what_is_wrong_in_a_task_file_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    good = write_task(tmp_path)
    assert Task.load(good).spec.name == "moods"
    with pytest.raises(ConfigError, match=said) as caught:
        Task.load(write_task(tmp_path, **changes))
    assert str(good) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_assignments_override_keys(task_file: Path) -> None:
    spec = Task.load(task_file, ("shots=4", "train.lr=1e-3", "head.texts=[down, up]")).spec
    assert (spec.shots, spec.train.lr, spec.head.texts) == (4, 1e-3, ("down", "up"))


def test_the_splits_of_the_toy_task(task: Task) -> None:
    assert [len(task.train_examples()), len(task.validation_examples()), len(task.test_examples())] == [128, 48, 80]
    assert [example.label for example in task.ood_examples("novel")] == [-1] * 8
    assert [example.label for example in task.ood_examples("meals")].count(-1) == 1
    assert task.test_examples(limit=3) == task.test_examples()[:3]
    described = task.describe()
    assert (described["labels"], described["head"]["template"]) == (["sad", "glad"], "{}")
    assert described["max_length"] == 128


@pytest.mark.parametrize(
    ("changes", "head"),
    [
        ({"head": VERBALIZER}, VERBALIZER),
        ({"head": {"kind": "choice"}, "choices": "c"}, {"kind": "choice", "template": "{text} {choice}"}),
        ({"head": CHOICE | {"normalize": "bytes"}, "choices": "c"}, CHOICE | {"normalize": "bytes"}),
        ({"head": {"kind": "similarity"}, "choices": "c"}, {"kind": "similarity", "template": "{}"}),
        ({"head": {"kind": "classifier"}}, {"kind": "classifier"}),
        ({"head": {"kind": "lm"}, "labels": []}, {"kind": "lm"}),
    ],
)
def test_every_head_is_described_with_all_that_it_read(
    changes: dict[str, Any], head: dict[str, Any], tmp_path: Path
) -> None:
    task = Task.load(write_task(tmp_path, **changes))
    described = task.describe()
    assert described["head"] == head
    assert described.get("choices") == changes.get("choices")
    assert task.spec.has_classes is (head["kind"] in ("verbalizer", "classifier"))


def test_shots_of_150_classes_are_drawn_of_each(tmp_path: Path) -> None:
    names = [f"intent {i}" for i in range(150)]
    path = write_task(tmp_path, labels=names, head={"kind": "similarity"}, shots=2)
    write_rows(tmp_path / "train.jsonl", [{"text": f"{name} {i}", "label": name} for name in names for i in range(3)])
    labels = [example.label for example in Task.load(path).train_examples()]
    assert sorted(labels) == [i for i in range(150) for _ in range(2)]


def test_a_split_without_any_of_the_labels_is_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    write_rows(tmp_path / "test.jsonl", [{"text": "the soup", "label": -1}])
    assert Task.load(path).train_examples()
    with pytest.raises(DataError, match=r"test.jsonl: no example has one of the task's labels"):
        Task.load(path).test_examples()
