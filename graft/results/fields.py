"""JSON out and in for typed results: the annotations of a dataclass are its schema.

`to_json` writes every field that is not None; `from_node` reads it back, checks each value, ignores unknown keys and
takes null as absent, so that a stranger's file ends in one line with file and place. A class with a JSON form of its
own has the methods `to_json` and `from_node`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from graft.results.json_node import Node

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return typed results as plain dicts, lists and scalars."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return write_fields(value)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are not None, as `to_json` does."""
    fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {name: to_json(item) for name, item in fields if item is not None}


def from_json(kind: type[T], value: Any, file: Path = Path("results")) -> T:
    """Return plain JSON as the dataclass `kind`; `file` is named in errors.

    Raises:
        DataError: a value is missing or of the wrong type.
    """
    result: T = from_node(kind, Node(value, file))
    return result


def from_node(hint: Any, node: Node) -> Any:
    """Return a value of a file as what an annotation asks for.

    Raises:
        DataError: it is something else; the line names file and place.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):  # only "X | None", and null never comes here
        return from_node(next(option for option in arguments if option is not type(None)), node)
    if origin is tuple:
        return tuple(from_node(arguments[0], item) for item in node.elements())
    if origin is not None and origin is not Literal:
        return {key: from_node(arguments[1], item) for key, item in node.items()}
    if hasattr(hint, "from_node"):
        return hint.from_node(node)
    if dataclasses.is_dataclass(hint):
        return _read_fields(hint, node)
    return _read_scalar(hint, node, arguments)


def _read_fields(kind: Any, node: Node) -> Any:
    hints, present = typing.get_type_hints(kind), dict(node.items())
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in present:
            values[field.name] = from_node(hints[field.name], present[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if type(None) not in typing.get_args(hints[field.name]):
                node.need(field.name)
            values[field.name] = None
    return kind(**values)


def _read_scalar(hint: Any, node: Node, allowed: tuple[Any, ...]) -> Any:
    if allowed and node.value not in allowed:
        node.refuse(f"one of {', '.join(allowed)}")
    readers = {int: Node.whole, float: Node.number, str: Node.text}
    return readers[hint](node) if hint in readers else node.value
