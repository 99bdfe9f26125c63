"""The reference of all keys of YAML, read off the blocks: their docstrings give each key's meaning."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from graft.recipes.registry import KINDS
from graft.registry import load_target, name_number
from graft.specs.block import field_hints, ranges_of
from graft.specs.ranges import OneOf, Range

ROOTS = {  # title -> the outermost block of a TASK file, or the options of a command
    "TASK": "graft.specs.task:TaskSpec",
    "localize": "graft.specs.localize:LocalizeSpec",
    "rollback": "graft.specs.rollback:RollbackSpec",
    "refit": "graft.specs.refit:RefitSpec",
    "importance": "graft.specs.importance:ImportanceSpec",
    "fuse": "graft.specs.fusion:FusionSpec",
}
_PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", Any: "anything"}


@dataclass(frozen=True)
class Row:
    """Key of a block.

    Attributes:
        key: as YAML has it.
        type: in words, such as "list of text"; a block in it is named by its title.
        default: as YAML would write it; "required" where there is none, empty where nothing is set.
        range: what a value may be beyond its type, such as "above 0"; empty where the type says all.
        meaning: what it does; for a name of a registry, what each of them does too.
    """

    key: str
    type: str
    default: str
    range: str
    meaning: str


def describe_blocks() -> dict[str, list[Row]]:
    """Return the rows of every block by its title, such as "TASK" or "TASK: train.regularize"; each block once."""
    titles: dict[type, str] = {}
    roots: dict[type, str] = {load_target(target): title for title, target in ROOTS.items()}
    roots |= {kind.load_spec(): f"recipe of kind {name}" for name, kind in KINDS.items()}
    for root, title in roots.items():
        for path, kind in _walk(root):
            titles.setdefault(kind, roots.get(kind) or (f"{title}: {path}" if path else title))
    return {title: describe(kind, titles) for kind, title in titles.items()}


def describe(kind: type, titles: Mapping[type, str] | None = None) -> list[Row]:
    """Return the rows of one block.

    Args:
        kind: its dataclass.
        titles: what blocks within it are called; by their class where one is missing.
    """
    meanings = _read_meanings(kind)
    fields: Mapping[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(kind)}
    rows = []
    for key, hint in field_hints(kind).items():
        ranges = _ranges_within(hint)
        extent = " and ".join(dict.fromkeys(str(item) for item in ranges if not isinstance(item, OneOf)))
        about = [meanings.get(key, ""), *(item.registry.describe() for item in ranges if isinstance(item, OneOf))]
        rows.append(
            Row(key, _describe_type(hint, titles or {}), _describe_default(fields[key]), extent, " ".join(about))
        )
    return rows


def _walk(kind: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Yield a block and those within it, each with its dotted path."""
    yield path, kind
    for key, hint in field_hints(kind).items():
        for inner in _blocks_within(hint):
            yield from _walk(inner, f"{path}.{key}" if path else key)


def _blocks_within(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    parts = () if typing.get_origin(hint) is Literal else typing.get_args(hint)
    return [block for part in parts for block in _blocks_within(part)]


def _ranges_within(hint: Any) -> list[Range]:
    parts = () if typing.get_origin(hint) is Literal else typing.get_args(hint)
    return [*ranges_of(hint), *(extent for part in parts for extent in _ranges_within(part))]


def _read_meanings(kind: type) -> dict[str, str]:
    """Return key -> meaning, from the section "Attributes" of a block's docstring, then of the block that it extends.

    A line may tell of several keys.
    """
    extended = [_read_meanings(parent) for parent in kind.__bases__ if dataclasses.is_dataclass(parent)]
    return {key: text for meanings in extended for key, text in meanings.items()} | _read_own_meanings(kind)


def _read_own_meanings(kind: type) -> dict[str, str]:
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    lines = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", section.split("\n\n")[0], flags=re.MULTILINE)
    return {key: " ".join(text.split()) for keys, text in lines for key in keys.split(", ")}


def _describe_type(hint: Any, titles: Mapping[type, str]) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if names := [item for item in ranges_of(hint) if isinstance(item, OneOf)]:
        return str(names[0])
    if origin is Annotated:
        return _describe_type(parts[0], titles)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(part, titles) for part in parts if part is not type(None))
    if origin is tuple:
        return f"list of {_describe_type(parts[0], titles)}"
    if origin is not None and issubclass(origin, Mapping):
        value = _describe_type(parts[1], titles)
        return f"mapping of names to {value}" + (" or null" if type(None) in typing.get_args(parts[1]) else "")
    if dataclasses.is_dataclass(hint):
        return f"block {titles.get(typing.cast(type, hint), getattr(hint, '__name__', ''))}"
    return _PLAIN.get(hint, str(hint))


def _describe_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _show(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else _show(field.default_factory())


def _show(value: Any) -> str:
    if value is None or value in ((), {}) or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return name_number(value) if isinstance(value, float) else str(value)
