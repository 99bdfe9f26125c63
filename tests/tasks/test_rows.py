from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from graft.errors import DataError
from graft.specs.data import SplitSpec
from graft.specs.head import HeadSpec
from graft.tasks.examples import make_examples
from graft.tasks.rows import read_dataset
from tests.models import Rows, toy_rows, toy_spec, write_rows

AWKWARD = [
    {"text": 'a "quoted", text\nof two lines', "label": 0},
    {"text": "naïve Zoë – 日本", "label": 1},
    {"text": "2024", "label": 0},
]


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


WRITERS: dict[str, Any] = {"jsonl": write_rows, "csv": write_csv, "parquet": write_parquet}


def read(path: Path, **task: Any) -> Any:
    spec = SplitSpec(path.name)
    return make_examples(read_dataset(spec, path.parent), spec, toy_spec(**task))


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_examples(suffix: str, tmp_path: Path) -> None:
    rows = [*toy_rows(20, 0), *AWKWARD]
    examples = read(WRITERS[suffix](tmp_path / f"rows.{suffix}", rows))
    assert [(example.texts[0], example.label) for example in examples] == [(row["text"], row["label"]) for row in rows]


@pytest.mark.parametrize("suffix", WRITERS)
def test_labels_whose_names_are_numbers_are_names_where_they_are_text(suffix: str, tmp_path: Path) -> None:
    rows = [{"text": "two stars", "label": "2"}, {"text": "three stars", "label": "3"}]
    examples = read(WRITERS[suffix](tmp_path / f"rows.{suffix}", rows), labels=("1", "2", "3"), head=HeadSpec())
    assert [example.label for example in examples] == [1, 2]


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    for name, text in (("a.csv", "text,label\ngood,1\n"), ("a.jsonl", '\n{"text": "good", "label": 1}\n\n')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert [example.label for example in read(tmp_path / name)] == [1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x", "label": 0}\n{"text": \n', r"a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl, line 1: not valid JSON"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n\n[1]\n', r"a.jsonl, line 3: not a JSON object"),
        ("a.jsonl", b"\xff\xfe", r"a.jsonl: not UTF-8"),
        ("a.jsonl", b"\n\n", r"a.jsonl: the split is empty"),
        ("a.csv", b"text,label\n", r"a.csv: the split is empty"),
        ("a.csv", b"text,label\na\n", r"a.csv, row 1: 1 cells under 2 columns$"),
        (
            "a.csv",
            b"text,label\na,1\n\ngood, but long,1\n",
            r"a.csv, row 2: 3 cells under 2 columns; a text with a comma",
        ),
        ("a.csv", b"text,label\na,1,\n", r"a.csv, row 1: 3 cells under 2 columns"),
        ("a.csv", b"text,label,text\na,1,b\n", r"a.csv: the column 'text' occurs twice"),
        ("a.csv", b'label,text\n1,"open\n0,b\n', r"a.csv, line 3: not valid csv"),
        ("a.csv", b'label,text\n1,"a\n0,"b\n', r"a.csv, line 3: not valid csv"),
        ("a.csv", b"text,label\na,1.0\n", r"a.csv, row 1: label '1.0' is outside"),
        ("a.csv", b"text,label\na,01\n", r"a.csv, row 1: label '01' is outside"),
        ("a.csv", "text,label\na,\u0661\n".encode(), r"a.csv, row 1: label '\u0661' is outside"),
        ("a.csv", b"text,label\na,True\n", r"a.csv, row 1: label 'True' is outside"),
        ("a.csv", b"text;label\na;1\n", r"a.csv, row 1: no column 'text'; it has text;label"),
        ("a.jsonl", b'{"text": "x", "label": 0, "label": 1}\n', r"a.jsonl, line 1: the key 'label' occurs twice"),
        ("a.jsonl", b'{"text": "x", "label": NaN}\n', r"a.jsonl, row 1: label nan in column 'label' is not a position"),
        ("a.jsonl", b'{"text": "x", "label": true}\n', r"a.jsonl, row 1: label True in column 'label' is not a pos"),
        ("a.jsonl", b'{"text": "x", "label": [0, 1]}\n', r"a.jsonl, row 1: label \[0, 1\] is outside"),
        ("a.jsonl", b'{"text": "\\ud83d", "label": 0}\n', r"a.jsonl, row 1: 'text' is not a text"),
        ("a.jsonl", b'[{"text": "x", "label": 0}]\n', r"a.jsonl, line 1: not a JSON object"),
        ("a.json", b'[{"text": "x", "label": 0}, 1]\n', r"a.json, row 2: not a JSON object"),
        ("a.json", b'[{"text": "x", "label": 0}, {"text": "x", "text": "y"}]', r"a.json: the key 'text' occurs twice"),
        ("a.json", b'{\n"train": [{"text": "x", "label": 0}]\n}', r"a.json, line 1: not valid JSON"),
        ("a.json", b'{"data": [{"text": "x", "label": 0}]}', r"a.json, row 1: no column 'text'; it has data"),
        ("a.json", b"[]", r"a.json: the split is empty"),
        ("a.json", b'[{"text": "x", "label": 0}', r"a.json: not valid JSON"),
        ("a.parquet", b"PAR1 junk", r"a.parquet: not a parquet file"),
        ("a.txt", b"x", r"a.txt: a dataset must end in .jsonl, .json, .csv, .parquet"),
    ],
)
def test_damaged_files_are_named_with_the_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_json_document_is_read_as_its_rows(tmp_path: Path) -> None:
    rows = [*toy_rows(5, 0), {"text": "\U0001f600", "label": 1}]
    expected = [(row["text"], row["label"]) for row in rows]
    for text in (json.dumps(rows, indent=2), json.dumps(rows), "\ufeff \n" + json.dumps(rows, ensure_ascii=False)):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert [(example.texts[0], example.label) for example in read(tmp_path / "a.json")] == expected
    write_rows(tmp_path / "a.JSON", rows)
    assert [(example.texts[0], example.label) for example in read(tmp_path / "a.JSON")] == expected


def test_a_csv_cell_may_be_as_long_as_the_file(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "the film\n" * 30_000
    (read_example,) = read(write_csv(tmp_path / "a.csv", [{"text": long, "label": 1}]))
    assert (read_example.texts, read_example.label) == ((long,), 1)
    assert csv.field_size_limit() == limit


def test_numbers_that_may_be_positions_or_names_are_refused(tmp_path: Path) -> None:
    stars = {"labels": ("1", "2", "3"), "head": HeadSpec()}

    def labels_of(*labels: Any) -> list[int]:
        path = write_rows(tmp_path / "a.jsonl", [{"text": "x", "label": label} for label in labels])
        return [example.label for example in read(path, **stars)]

    assert labels_of("1", "2", "1") == [0, 1, 0]
    assert labels_of(0, 1, 2) == [0, 1, 2]
    with pytest.raises(DataError, match=r"a.jsonl: the numbers 1, 2 in column 'label' may be positions or names"):
        labels_of(1, 2, 1, -1)
    with pytest.raises(DataError, match=r"row 2: label 3 is outside"):
        labels_of(1, 3)


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    columns = [pyarrow.array(["x"]), pyarrow.array([0]), pyarrow.array([1])]
    pyarrow.parquet.write_table(pyarrow.table(columns, ["text", "label", "label"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: the column 'label' occurs twice"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_what_is_no_file_is_refused_without_waiting(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for name, said in (("pipe", "not a file"), ("folder", "Is a directory"), ("device", "not a file")):
        with pytest.raises(DataError, match=rf"{name}{suffix}: cannot be read \({said}\)"):
            read(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize(
    "name", ["x" * 5000 + ".jsonl", "./" + "y" * 5000, "~nobody-of-that-name/a.jsonl", "./a\0b", "./\ud83d.csv"]
)
def test_names_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_dataset(SplitSpec(name), tmp_path)


def test_a_file_has_neither_configurations_nor_splits(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", toy_rows(2, 0))
    with pytest.raises(DataError, match=r"a.jsonl: name and split belong to a dataset of the Hub"):
        read_dataset(SplitSpec("a.jsonl", split="test"), tmp_path)


def test_a_missing_file_is_refused_without_asking_the_hub(tmp_path: Path) -> None:
    for path in ("gone.jsonl", "./gone", str(tmp_path / "gone")):
        with pytest.raises(DataError, match=r"gone.*(cannot be read|must end in)"):
            read_dataset(SplitSpec(path), tmp_path)


def test_a_hub_dataset_is_asked_for_by_name_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(*place: Any, **how: Any) -> datasets.Dataset:
        asked.append((*place, how["split"]))
        if place[0] == "org/gone":
            raise ConnectionError("no route\nto the Hub")
        return datasets.Dataset.from_list(toy_rows(2, 0))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_dataset(SplitSpec("org/moods", "en", "test"), tmp_path) == toy_rows(2, 0)
    assert asked == [("org/moods", "en", "test")]
    with pytest.raises(DataError, match=r"org/gone: no such file, and not to be had from the Hub \(no route\)$"):
        read_dataset(SplitSpec("org/gone"), tmp_path)
