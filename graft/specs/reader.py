"""Strict typed configuration: a mapping read from YAML becomes a frozen dataclass, or one clear line.

Why not a validation library: the types are few (numbers, strings, lists, mappings, nested blocks), the
message must name file, key and what is allowed, and a training machine often has torch and nothing more.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from graft.errors import ConfigError
from graft.files.inputs import open_input
from graft.specs.block import field_hints
from graft.specs.ranges import NoText, OneOf

T = TypeVar("T")
MOST_BYTES = 64_000_000  # of a file that is read as YAML


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: the file is missing, no regular file, not YAML, not a mapping, or can be read in two ways, as where
            a key occurs twice.
    """
    from graft.specs.strict_yaml import parse_yaml

    try:
        with open_input(path) as file:
            value = parse_yaml(file.read(MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8 among them
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, not {type(value).__name__}")
    return value


def read_config(kind: type[T], value: object, where: str) -> T:
    """Turn a mapping into the dataclass `kind`, checking every key and type.

    Args:
        kind: a dataclass whose fields are annotated with str, int, float, bool, Literal, Optional, tuples,
            mappings or further dataclasses, each with a range (`graft.specs.ranges`) or without.
        value: what the YAML held.
        where: the place to name in an error, such as "task.yaml: head".

    Raises:
        ConfigError: an unknown key (the allowed ones are named), a missing one, or a wrong type.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be a mapping, not {_show(value)}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}{_suggest_keys(str(key), fields)}")
    hints = field_hints(kind)  # type: ignore[arg-type]
    for name, field in fields.items():
        if name not in value and _required(field):
            raise ConfigError(f"{where}: the key {name!r} is missing")
    converted = {name: _convert(hints[name], value[name], f"{where}: {name}") for name in fields if name in value}
    try:
        return kind(**converted)
    except ValueError as error:  # a dataclass's own __post_init__ check
        raise ConfigError(f"{where}: {error}") from error


def override(value: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Apply `--set a.b=c` assignments, the right side read as YAML, to a copy of the mapping.

    Raises:
        ConfigError: an assignment without "=", a path through something that is not a mapping, or bad YAML.
    """
    import copy

    from graft.specs.strict_yaml import parse_yaml

    result = copy.deepcopy(value)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: write it as key=value, such as localize.density=1e-3")
        *parents, last = path.split(".")
        block: Any = result
        for parent in parents:
            block = block.setdefault(parent, {}) if isinstance(block, dict) else None
        if not isinstance(block, dict):
            raise ConfigError(f"--set {assignment}: {'.'.join(parents)} is not a block of keys")
        try:
            block[last] = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML ({error})") from error
    return result


def to_plain(value: Any) -> Any:
    """Return a dataclass, or anything made of them, as plain dicts and lists for JSON; unset options are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _convert_named(arguments, value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            return value
        raise ConfigError(f"{where}: must be one of {', '.join(map(str, arguments))}, not {_show(value)}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: must be a list, not {_show(value)}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: must be a mapping, not {_show(value)}")
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: a key must be a text, not {_show(key)}{_advise_quotes(key)}")
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else read_config(hint, value, where)  # type: ignore[arg-type]
    return _convert_scalar(hint, value, where)


def _convert_named(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Convert a value to an annotated type, its kind as it is given; the block checks other ranges itself."""
    for extent in arguments[1:]:
        if isinstance(extent, OneOf | NoText) and not extent.holds(value):
            raise ConfigError(f"{where}: must be {extent}, not {_show(value)}")
    return _convert(arguments[0], value, where)


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [option for option in arguments if option is not type(None)]
    if len(options) == 1:
        return _convert(options[0], value, where)
    # of several kinds, a mapping is meant for the block, a list for the tuple, anything else for the scalar
    for option in options:
        try:
            return _convert(option, value, where)
        except ConfigError:
            if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
                raise
    names = " or ".join(_name(option) for option in options)
    raise ConfigError(f"{where}: must be {names}, not {_show(value)}{_advise_quotes(value) if str in options else ''}")


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        _require_plain(value, where)
        return value
    if hint is float and (number := _read_number(value)) is not None:
        return number
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is not float and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(
        f"{where}: must be {_name(hint)}, not {_show(value)}{_advise_quotes(value) if hint is str else ''}"
    )


def _read_number(value: Any) -> float | None:
    """Return a finite number, which may be a text too, since YAML 1.1 reads 1e-4 as one: the dot is missing."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and re.fullmatch(_NUMBER, value)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"


def _advise_quotes(value: object) -> str:
    """Return advice where YAML made something else of what was meant as a text."""
    if isinstance(value, bool):
        return ": YAML reads yes, no, on, off, true and false so; quote it"
    return ": quote it" if isinstance(value, (int, float, datetime.date)) else ""


def _require_plain(value: Any, where: str) -> None:
    """Refuse what no JSON could hold, such as a date, in what is taken as it stands."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _require_plain(item, f"{where}[{i}]")
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        raise ConfigError(f"{where}: must be a text, number, list or mapping, not {_show(value)}: quote it")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _suggest_keys(key: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, fields, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}; allowed are {', '.join(fields)}"


def _name(hint: Any) -> str:
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    if dataclasses.is_dataclass(hint):
        return "a block of keys"
    return "a list" if typing.get_origin(hint) is tuple else plain.get(hint, str(hint))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
