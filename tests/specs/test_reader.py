from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import ConfigError
from graft.specs.reader import load_yaml, override, read_config, to_plain


@dataclass(frozen=True)
class Inner:
    lr: float = 1.0
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError("lr must not be negative")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    flag: bool = False
    kind: Literal["a", "b", 1] = "a"
    file: Path | None = None
    labels: tuple[str, ...] = ()
    table: Mapping[str, int | None] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    source: str | Inner = "here"
    columns: str | tuple[str, ...] | None = None
    anything: Any = None


def read(**more: object) -> Outer:
    return read_config(Outer, {"name": "x", **more}, "f.yaml")


def test_every_kind_of_value() -> None:
    outer = read(
        count=3,
        flag=True,
        kind="b",
        file="a/b",
        labels=["p", "q"],
        table={"one": 1, "none": None},
        inner={"lr": 2, "steps": None},
        source={"lr": 0.5},
        columns=["c", "d"],
        anything=[{"deep": 1}],
    )
    assert outer == Outer(
        *("x", 3, True, "b", Path("a/b"), ("p", "q"), {"one": 1, "none": None}),
        *(Inner(2.0), Inner(0.5), ("c", "d"), [{"deep": 1}]),
    )
    assert read() == Outer("x")
    assert read(inner=Inner(3.0)).inner == Inner(3.0)
    assert read(columns="c").columns == "c"
    assert read(columns=None).columns is None


def refuse(message: str, value: object, kind: type = Outer) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(kind, value, "f.yaml")
    assert str(caught.value) == message


def test_unknown_keys_name_the_allowed_ones_and_a_guess() -> None:
    refuse("f.yaml: unknown key 'stps' (did you mean 'steps'?); allowed are lr, steps", {"stps": 1}, Inner)
    refuse("f.yaml: unknown key 'zebra'; allowed are lr, steps", {"zebra": 1}, Inner)
    refuse("f.yaml: unknown key 7; allowed are lr, steps", {7: 1}, Inner)
    refuse(
        "f.yaml: inner: unknown key 'lrr' (did you mean 'lr'?); allowed are lr, steps",
        {"name": "x", "inner": {"lrr": 1}},
    )
    refuse("f.yaml: the key 'name' is missing", {})
    refuse("f.yaml: must be a mapping, not [1]", [1])


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        ("name", 1, "name: must be a text, not 1: quote it"),
        ("name", None, "name: must be a text, not None"),
        ("count", "3", "count: must be a whole number, not '3'"),
        ("count", 3.0, "count: must be a whole number, not 3.0"),
        ("count", True, "count: must be a whole number, not True"),
        ("flag", 1, "flag: must be true or false, not 1"),
        ("flag", "yes", "flag: must be true or false, not 'yes'"),
        ("kind", "c", "kind: must be one of a, b, 1, not 'c'"),
        ("kind", True, "kind: must be one of a, b, 1, not True"),
        ("kind", 1.0, "kind: must be one of a, b, 1, not 1.0"),
        ("file", 3, "file: must be a path, not 3"),
        ("labels", "pq", "labels: must be a list, not 'pq'"),
        ("labels", ["p", 2], "labels[1]: must be a text, not 2: quote it"),
        ("table", [1], "table: must be a mapping, not [1]"),
        ("table", {"one": "x"}, "table.one: must be a whole number, not 'x'"),
        ("inner", "x", "inner: must be a mapping, not 'x'"),
        ("inner", {"lr": True}, "inner: lr: must be a number, not True"),
        ("inner", {"lr": "fast"}, "inner: lr: must be a number, not 'fast'"),
        ("inner", {"lr": None}, "inner: lr: must be a number, not None"),
        ("inner", {"lr": float("nan")}, "inner: lr: must be a number, not nan"),
        ("inner", {"lr": "inf"}, "inner: lr: must be a number, not 'inf'"),
        ("inner", {"lr": 10**400}, "inner: lr: must be a number, not 1" + "0" * 56 + "..."),
        ("inner", {"lr": -1}, "inner: lr must not be negative"),
        ("source", {"lr": "fast"}, "source: lr: must be a number, not 'fast'"),
        ("source", 3, "source: must be a text or a block of keys, not 3: quote it"),
        ("name", False, "name: must be a text, not False: YAML reads yes, no, on, off, true and false so; quote it"),
        (
            "columns",
            True,
            "columns: must be a text or a list, not True: YAML reads yes, no, on, off, true and false so; quote it",
        ),
        ("table", {1: 1}, "table: a key must be a text, not 1: quote it"),
        ("table", {None: 1}, "table: a key must be a text, not None"),
        ("inner", {"lr": "1_0"}, "inner: lr: must be a number, not '1_0'"),
        ("columns", {"c": 1}, "columns: must be a text or a list, not {'c': 1}"),
    ],
)
def test_wrong_types_are_refused_in_one_line(key: str, value: object, fact: str) -> None:
    refuse(f"f.yaml: {fact}", {"name": "x", key: value})


def test_a_number_without_a_dot_is_a_text_to_yaml_but_a_float_here(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("lr: 1e-4\n")
    loaded = load_yaml(tmp_path / "f.yaml")
    assert loaded == {"lr": "1e-4"}
    assert read_config(Inner, loaded, "f.yaml").lr == 1e-4


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "must hold a mapping of keys, not NoneType"),
        (b"- 1\n", "must hold a mapping of keys, not list"),
        (b"a: [1\n", "not valid YAML"),
        (b"a: \xff\n", "not valid YAML"),
        (b"a: 2024-99-99\n", "not valid YAML"),
        (b"? [a, b]\n: 1\n", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"[" * 10_000, "not valid YAML"),
        (b"? &a [1]\n: *a\n", "not valid YAML"),
        (b"a: 1\n'a': 2\n", "not valid YAML (line 2, column 1: the key 'a' occurs twice)"),
        (b"a: {b: 1, c: [{d: 1, d: 1}]}\n", "not valid YAML (line 1, column 22: the key 'd' occurs twice)"),
        (b"b: &b {c: 1}\na: {<<: *b, <<: *b}\n", "not valid YAML (line 2, column 13: the key '<<' occurs twice)"),
        (
            b"a: 010\n",
            "not valid YAML (line 1, column 4: 010 is a number to base 8 in YAML: quote it, or write it without",
        ),
        (b"a: 1:30\n", "not valid YAML (line 1, column 4: 1:30 is a number to base 60 in YAML"),
        (b"a: 1:30.5\n", "not valid YAML (line 1, column 4: 1:30.5 is a number to base 60 in YAML"),
        (b"a: " + b"9" * 30 + b"\n", "not valid YAML (line 1, column 4: a whole number of more than 64 bits)"),
        (b"a: 0x" + b"f" * 6000 + b"\n", "not valid YAML (line 1, column 4: a whole number of more than 64 bits)"),
        (b'a: "\\ud83d"\n', "not valid YAML (line 1, column 4: a text holds half a character (a lone surrogate))"),
        (b'a: "x\\0y"\n', "not valid YAML (line 1, column 4: a text holds a NUL character)"),
        (b"a: !!bool x\n", "not valid YAML"),
        (b"a: !!int ''\n", "not valid YAML"),
        (b"a: !!timestamp x\n", "not valid YAML"),
        (b"a: &a [*a]\n", "not valid YAML (line 1, column 8: an alias stands within what it repeats)"),
        (b"a: &a {<<: *a}\n", "not valid YAML (line 1, column 12: an alias stands within what it repeats)"),
        (b"a: 1\n---\na: 2\n", "not valid YAML"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_holds_no_mapping_is_refused_in_one_line(data: bytes | None, fact: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: {fact}")
    assert "\n" not in str(caught.value)


def test_what_yaml_offers_beyond_plain_values_is_read_where_it_means_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        """\
        some: &some {lr: 1, steps: 2}
        more: &more {<<: *some, steps: 3}
        most: {<<: [*more, *some], name: x}
        again: [*some, *some]
        numbers: [0, -1, 0x10, 1_000, 0.5, 00.5]
        texts: ["010", '1:30', "\\ud83d\\ude00", "yes"]
        """,
        encoding="utf-8-sig",
    )
    some = {"lr": 1, "steps": 2}
    assert load_yaml(path) == {
        "some": some,
        "more": {"lr": 1, "steps": 3},
        "most": {"lr": 1, "steps": 3, "name": "x"},
        "again": [some, some],
        "numbers": [0, -1, 16, 1000, 0.5, 0.5],
        "texts": ["010", "1:30", "\U0001f600", "yes"],
    }


def test_aliases_that_explode_are_refused_before_they_do(tmp_path: Path) -> None:
    path, base = tmp_path / "f.yaml", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)]
    path.write_text(base + "".join(lines[:3]))
    assert len(load_yaml(path)["a3"]) == 10
    path.write_text(base + "".join(lines))
    with pytest.raises(ConfigError, match=r"line 5, column \d+: aliases stand for more than 100,000 values"):
        load_yaml(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "dangling link", "name with NUL"])
def test_what_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: 1\n")
    assert load_yaml(path) == {"a": 1}
    (tmp_path / "link.yaml").symlink_to(path)
    assert load_yaml(tmp_path / "link.yaml") == {"a": 1}
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "dangling link":
        path.symlink_to("gone")
    path = {"device": Path("/dev/zero"), "name with NUL": Path("a\0b")}.get(kind, path)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_override_sets_typed_values_in_a_copy() -> None:
    value = {"train": {"lr": 1.0, "steps": 3}, "name": "x"}
    changed = override(value, ("train.lr=1e-3", "train.steps=null", "new.block.flag=true", "name=a=b", "labels=[p, q]"))
    assert changed == {
        "train": {"lr": "1e-3", "steps": None},
        "name": "a=b",
        "new": {"block": {"flag": True}},
        "labels": ["p", "q"],
    }
    assert value == {"train": {"lr": 1.0, "steps": 3}, "name": "x"}
    assert override(value, ()) == value


@pytest.mark.parametrize(
    ("assignment", "fact"),
    [
        ("train.lr", "write it as key=value, such as localize.density=1e-3"),
        ("=3", "write it as key=value, such as localize.density=1e-3"),
        ("name.deep=3", "name is not a block of keys"),
        ("name.deep.er=3", "name.deep is not a block of keys"),
        ("name=[1", "the value is not valid YAML (line 1, column 3: expected ',' or ']', but got '<stream end>')"),
        ("name=2024-99-99", "the value is not valid YAML (month must be in 1..12)"),
    ],
)
def test_a_bad_override_is_refused(assignment: str, fact: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override({"name": "x"}, (assignment,))
    assert str(caught.value) == f"--set {assignment}: {fact}"


@settings(derandomize=True, deadline=None)
@given(st.builds(Outer, st.text(), st.integers(), st.booleans(), table=st.dictionaries(st.text(), st.integers())))
def test_plain_values_read_back_as_the_same_config(outer: Outer) -> None:
    plain = to_plain(outer)
    assert "file" not in plain  # unset options are left out
    assert read_config(Outer, plain, "f.yaml") == outer
