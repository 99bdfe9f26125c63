"""Block: the base of every config block, which checks the ranges of its fields when it is made."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Annotated, Any, Union

from graft.specs.ranges import Range


class Block:
    """A frozen dataclass that YAML may hold.

    A subclass that checks more overrides `__post_init__` and calls this one first.
    """

    def __post_init__(self) -> None:
        """Refuse a value outside the range of its field.

        Raises:
            ValueError: naming the field and what it may be.
        """
        kind: Any = type(self)
        for name, hint in field_hints(kind).items():
            _check(name, getattr(self, name), hint)


@functools.cache
def field_hints(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass by name, with the ranges that Annotated puts on it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def ranges_of(hint: Any) -> list[Range]:
    """Return the ranges that are written onto a type itself."""
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return [extra for extra in extras if isinstance(extra, Range)]


def _check(name: str, value: Any, hint: Any) -> None:
    # unwraps one layer a call: tuple[Share, ...] | None is a union, within it a tuple, within it an annotated float
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return
    if origin is Annotated:
        for extent in ranges_of(hint):
            extent.check(name, value)
        _check(name, value, arguments[0])
    elif origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        _check(name, value, next(option for option in arguments if option is not type(None)))
    elif origin is tuple:
        for i, item in enumerate(value):
            _check(f"{name}[{i}]", item, arguments[0])
