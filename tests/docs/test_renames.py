"""The page of old and new names: what it sends the reader to is there, and what it calls old is not."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import graft
from tests.docs.blocks import ROOT

PAGE = "docs/renames.md"
NAME = re.compile(r"`((?:graft|graft_cli)(?:\.\w+)+)`")
FILE = re.compile(r"`(tests/[\w/]+\.py)`")


def read_rows(section: str) -> list[list[str]]:
    """The cells of each row of a section's table, without its head."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    block = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def find_module(name: str) -> Path | None:
    """The file of a module, by its dotted name; None where there is none."""
    path = (ROOT / "cli" if name.startswith("graft_cli") else ROOT) / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


@functools.cache
def read_names(file: Path) -> dict[str, ast.ClassDef | None]:
    """What a module defines at its top, with the definition of each class."""
    names: dict[str, ast.ClassDef | None] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef():
                names[node.name] = node
            case ast.FunctionDef():
                names[node.name] = None
            case ast.Assign():
                names |= {target.id: None for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = None
    return names


def has_member(of_class: ast.ClassDef, name: str) -> bool:
    """Whether the body of a class defines a method or an attribute."""
    for node in ast.walk(of_class):
        match node:
            case ast.FunctionDef(name=defined) | ast.AnnAssign(target=ast.Name(id=defined)):
                if defined == name:
                    return True
            case ast.Attribute(value=ast.Name(id="self"), attr=attribute, ctx=ast.Store()) if attribute == name:
                return True
    return False


def exists(name: str) -> bool:
    """Whether a dotted name is that of a module, of something that a module defines, or of a member of its class."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        file = find_module(".".join(parts[:end]))
        if file is None:
            continue
        if end == len(parts):
            return True
        names, (top, *members) = read_names(file), parts[end:]
        of_class = names.get(top)
        return top in names and (not members or (of_class is not None and has_member(of_class, *members)))
    return False


def test_names_of_the_front_door() -> None:
    for old, new in read_rows("`import graft`"):
        before, after = (cell.strip("`").removeprefix("graft.").split("(")[0].split(".") for cell in (old, new))
        assert hasattr(graft, after[0]), new
        assert len(before) > 1 or "(" in old or not hasattr(graft, before[0]), old


@pytest.mark.parametrize("section", ["Modules", "Functions, classes and constants", "Methods and attributes"])
def test_what_is_called_new_exists_and_what_is_called_old_does_not(section: str) -> None:
    rows = read_rows(section)
    assert len(rows) > 50
    assert [row[0].strip("`") for row in rows] == sorted(row[0].strip("`") for row in rows)
    for old, new in rows:
        assert NAME.fullmatch(old), old
        assert not exists(old.strip("`")), old
        names = NAME.findall(new)
        assert names or new == "gone", new
        assert [name for name in names if not exists(name)] == [], old


def test_functions_whose_arguments_changed_exist() -> None:
    for function, gone, _ in read_rows("Arguments"):
        assert exists(function.strip("`")), function
        assert gone.startswith("`"), function


def test_tests_are_where_the_page_says() -> None:
    for old, new in read_rows("Tests"):
        assert not (ROOT / old.strip("`")).exists(), old
        assert (new == "gone") != any((ROOT / file).exists() for file in FILE.findall(new)), old
