"""Reads the keys of TASK and recipe files from the config dataclasses, their meaning from the docstrings.

A stand-in for graft.specs.reference, which has the same function, and ranges with it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union


@dataclass(frozen=True)
class Row:
    """One key of a block, as a person reads it."""

    key: str
    type: str
    default: str
    range: str
    meaning: str


def describe_blocks() -> dict[str, list[Row]]:
    """Return the rows of every block of keys that a TASK or recipe file may hold, by the block's title."""
    from graft.recipes.retention.spec import RetentionSpec
    from graft.recipes.spec import RecipeSpec
    from graft.recipes.suite.spec import SuiteSpec
    from graft.tasks.spec import SplitSpec, TaskSpec

    roots = {
        "A TASK file": TaskSpec,
        "A split": SplitSpec,
        "A recipe of one task": RecipeSpec,
        "A recipe of several tasks": SuiteSpec,
        "A recipe on forgetting": RetentionSpec,
    }
    blocks: dict[str, list[Row]] = {}
    seen: set[type] = set(roots.values())
    for title, kind in roots.items():
        _add(blocks, title, kind, seen)
    return blocks


def _add(blocks: dict[str, list[Row]], title: str, kind: type, seen: set[type]) -> None:
    hints, meanings = typing.get_type_hints(kind), _meanings(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    blocks[title] = [
        Row(field.name, _type(hints[field.name]), _default(field), "", meanings.get(field.name, "")) for field in fields
    ]
    for field in fields:
        for block in _blocks_in(hints[field.name]):
            if block not in seen:
                seen.add(block)
                _add(blocks, f"{field.name} ({block.__name__})", block, seen)


def _blocks_in(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint):
        return [typing.cast(type, hint)]
    return [block for part in typing.get_args(hint) if not isinstance(part, str) for block in _blocks_in(part)]


def _meanings(kind: type) -> dict[str, str]:
    """Read the Attributes section of a docstring: key -> meaning; a line may tell of several keys."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    section = section.split("\n\n")[0]
    found: dict[str, str] = {}
    for names, meaning in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", section, flags=re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def _type(hint: Any) -> str:
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", Any: "anything"}
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts if part is not type(None))
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of names to {_type(parts[1])}"
    return "block" if dataclasses.is_dataclass(hint) else plain.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else _shown(field.default_factory())
    return _shown(field.default)


def _shown(value: Any) -> str:
    if value is None or value in ((), {}) or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
