"""Tasks whose datasets are on the Hub, read from a local mirror or as the Hub has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graft_cli.entry import main

from graft.errors import ConfigError, DataError
from graft.tasks.examples import Example
from graft.tasks.task import Task
from tests.models import toy_content, toy_rows, write_rows, write_yaml

Rows = list[dict[str, Any]]
Hub = Callable[[Rows], list[dict[str, Any]]]  # rows that any dataset has -> what it is asked for


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub of one dataset."""
    import datasets

    asked: list[dict[str, Any]] = []

    def serve(rows: Rows) -> list[dict[str, Any]]:
        def load(path: str, name: str | None, **how: Any) -> datasets.Dataset:
            asked.append({"path": path, "name": name, **how})
            return datasets.Dataset.from_list(rows)

        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return serve


def task_of(folder: Path, entry: dict[str, Any], **more: Any) -> Path:
    data = dict.fromkeys(("train", "validation", "test"), entry)
    return write_yaml(folder / "task.yaml", toy_content(data=data, ood={}, **more))


MOODS = {"path": "org/moods", "split": "test", "text": "said", "label": "mood", "labels": ["glad", "sad"]}


def test_a_mirror_stands_in_for_the_hub_with_the_tasks_own_columns(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub([{"said": "a good film", "mood": 0}])  # the other way round than in the task: sad, glad
    path = task_of(tmp_path, MOODS | {"local": "moods/test.jsonl"}, labels=["sad", "glad"], shots=None)
    from_hub, expected = Task.load(path), [Example(("a good film",), 1)]
    assert from_hub.test_examples() == expected
    assert asked == [{"path": "org/moods", "name": None, "split": "test", "revision": None}]
    assert from_hub.files == []

    file = tmp_path / "mirror" / "moods" / "test.jsonl"
    file.parent.mkdir(parents=True)
    write_rows(file, [{"text": "a good film", "label": "glad"}])
    monkeypatch.setenv("GRAFT_DATA", str(tmp_path / "mirror"))
    mirrored = Task.load(path)
    assert mirrored.test_examples() == expected
    assert set(mirrored.files) == {file}
    assert len(asked) == 1


def test_a_file_that_the_mirror_lacks_is_named_and_the_hub_not_asked(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub([])
    monkeypatch.setenv("GRAFT_DATA", str(tmp_path))
    task = Task.load(task_of(tmp_path, MOODS | {"local": "moods/test.jsonl"}))
    with pytest.raises(DataError, match=r"has no moods/test.jsonl, which stands in for org/moods; without --data-root"):
        task.test_examples()
    assert asked == []


def test_what_has_no_place_in_the_mirror_is_read_where_it_is(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_DATA", str(tmp_path / "nowhere"))
    hub([{"said": "a good film", "mood": 0}])
    assert Task.load(task_of(tmp_path, MOODS, labels=["sad", "glad"])).test_examples()
    write_rows(tmp_path / "rows.jsonl", toy_rows(4, 0))
    assert len(Task.load(task_of(tmp_path, {"path": "rows.jsonl"})).test_examples()) == 4


def test_the_command_line_names_the_mirror_for_as_long_as_it_runs(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFT_DATA", raising=False)
    (tmp_path / "mirror" / "moods").mkdir(parents=True)
    write_rows(tmp_path / "mirror" / "moods" / "test.jsonl", toy_rows(6, 0))
    path = task_of(tmp_path, {"path": "org/moods", "local": "moods/test.jsonl"})
    for root, code, said in (("mirror", 0, '"n": 6'), (".", 1, "has no moods/test.jsonl")):
        with pytest.raises(SystemExit) as left:
            main(["evaluate", str(base), "--task", str(path), "--data-root", str(tmp_path / root), "--json"])
        printed = capsys.readouterr()
        assert left.value.code == code, printed
        assert said in printed.out + printed.err
        assert "GRAFT_DATA" not in os.environ


QUESTION = {
    "question": "what is wet?",
    "choices": {"text": ["fire", "rain", "sand"], "label": ["1", "2", "3"]},
    "key": "2",
    "a": "fire",
    "b": "rain",
    "right": 1,
}


@pytest.mark.parametrize(
    "columns",
    [
        {"choices": "choices.text", "labels": "choices.label", "label": "key"},
        {"choices": ["a", "b"], "label": "right"},
    ],
    ids=["nested, with names of their own", "a column a choice"],
)
def test_choices_come_as_datasets_have_them(columns: dict[str, Any], tmp_path: Path, hub: Hub) -> None:
    hub([QUESTION])
    entry = {"path": "org/questions", "text": "question", **columns}
    task = Task.load(task_of(tmp_path, entry, choices="choices", labels=[], head={"kind": "similarity"}))
    (example,) = task.test_examples()
    assert example.choices[example.label] == "rain"


def test_a_label_that_no_choice_has_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub([QUESTION | {"key": "B"}])
    entry = {"path": "org/q", "text": "question", "choices": "choices.text", "labels": "choices.label", "label": "key"}
    task = Task.load(task_of(tmp_path, entry, choices="choices", labels=[], head={"kind": "similarity"}))
    with pytest.raises(DataError, match=r"org/q, row 1: label 'B' is not the name of one of its 3 choices"):
        task.test_examples()
    with pytest.raises(ConfigError, match=r"labels must be a list of names, or for a task with choices the column"):
        Task.load(task_of(tmp_path, entry | {"choices": None}))


def test_parts_of_a_text_are_joined_and_rows_without_text_left_out_where_asked(tmp_path: Path, hub: Hub) -> None:
    rows: Rows = [{"body": {"parts": ["one", "two"]}, "line": "a"}, {"body": {"parts": ["x"]}, "line": " \n"}]
    hub(rows)
    lm = {"labels": [], "head": {"kind": "lm"}}
    whole = Task.load(task_of(tmp_path, {"path": "org/papers", "text": "body.parts"}, **lm)).test_examples()
    assert [example.texts for example in whole] == [("one two",), ("x",)]
    lines = {"path": "org/lines", "text": "line"}
    with pytest.raises(DataError, match=r"row 2: 'line' is not a text"):
        Task.load(task_of(tmp_path, lines, **lm)).test_examples()
    kept = Task.load(task_of(tmp_path, lines | {"skip_blank": True}, **lm)).test_examples()
    assert [example.texts for example in kept] == [("a",)]
