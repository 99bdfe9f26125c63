"""What a caller gives to a public function, held against the function's own annotations before anything is done."""

from __future__ import annotations

import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union

from graft.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
_SHOWN = 60  # characters of a value


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function refuse what its annotations do not allow, by the argument's name.

    Kinds alone are looked at, to the depth of a list's items; what a text or number may be is the function's own
    matter. A text that is taken for a path must be able to be one.

    Raises:
        TypeError: an argument of another kind.
        ConfigError: a path that no file can have.
    """
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:  # on the first call: they name what is slow to import
        return typing.get_type_hints(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            parameter, hint = signature.parameters[name], hints().get(name, Any)
            several = parameter.kind is parameter.VAR_POSITIONAL
            for item in value if several else (value,):
                if parameter.kind is not parameter.VAR_KEYWORD:
                    _check(function.__name__, name, item, hint)
        return function(*args, **kwargs)

    return call


def _check(function: str, name: str, value: object, hint: Any) -> None:
    if not _fits(value, hint):
        raise TypeError(f"{function}: {name} must be {_name(hint)}, not {_show(value)}")
    if isinstance(value, (str, Path)) and Path in (hint, *typing.get_args(hint)):
        _check_path(function, name, value)


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return isinstance(value, str)
    if hint in (int, float):
        kind: type = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's
    if origin in (list, tuple, Sequence) and not isinstance(value, (str, bytes)):
        return isinstance(value, origin) and all(_fits(item, arguments[0]) for item in value)
    if isinstance(origin, type):
        return isinstance(value, origin) and not isinstance(value, (str, bytes))
    return isinstance(value, type(None) if hint is None else hint)


def _check_path(function: str, name: str, value: str | Path) -> None:
    if not str(value):
        raise ConfigError(f"{function}: {name} cannot be a path: it is empty")
    try:
        Path(value).expanduser().stat()
    except ValueError as error:  # UnicodeEncodeError among them
        fact = "it holds a NUL character" if "\0" in str(value) else "it holds half of a surrogate pair"
        raise ConfigError(f"{function}: {name} {_show(value)} cannot be a path: {fact}") from error
    except RuntimeError as error:
        raise ConfigError(f"{function}: {name} {_show(value)} cannot be a path: there is no such user") from error
    except OSError:
        pass  # of a place that could be


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(option) for option in arguments)
    if hint in (None, type(None)):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is not None:
        kinds = [_name(argument) for argument in arguments if argument is not ...]
        return f"a mapping of {' to '.join(kinds)}" if issubclass(origin, Mapping) else f"a list of {', '.join(kinds)}"
    return str(getattr(hint, "__name__", hint))


def _show(value: object) -> str:
    if not isinstance(value, (str, int, float, Path, type(None))):
        return f"a {type(value).__name__}"
    text = ascii(str(value)) if isinstance(value, (str, Path)) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
