"""Arguments of public functions, checked against the function's own annotations before anything is done."""

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
_MAX_QUOTED = 60  # characters of a value in a message


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse arguments that its annotations do not allow, by the argument's name.

    Only types are checked, to the depth of a list's items; which texts or numbers are allowed is checked by the
    function. A text that is taken for a path must be a possible one.

    Raises:
        TypeError: an argument of another kind.
        ConfigError: a path that no file can have.
    """
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        """Return the function's annotations, on its first call: they name what is slow to import."""
        return typing.get_type_hints(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        """Check the arguments, then call the function."""
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            parameter, hint = signature.parameters[name], hints().get(name, Any)
            several = parameter.kind is parameter.VAR_POSITIONAL
            for item in value if several else (value,):
                if parameter.kind is not parameter.VAR_KEYWORD:
                    _check(function.__name__, name, item, hint)
        return function(*args, **kwargs)

    return call


def _check(function: str, parameter: str, value: object, hint: Any) -> None:
    if not _matches(value, hint):
        raise TypeError(f"{function}: {parameter} must be {_describe_type(hint)}, not {_quote(value)}")
    if isinstance(value, (str, Path)) and Path in (hint, *typing.get_args(hint)):
        _check_path(function, parameter, value)


def _matches(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is Literal:
        return isinstance(value, str)
    if hint in (int, float):
        kind: type = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's
    if origin in (list, tuple, Sequence) and not isinstance(value, (str, bytes)):
        return isinstance(value, origin) and all(_matches(item, arguments[0]) for item in value)
    if isinstance(origin, type):
        return isinstance(value, origin) and not isinstance(value, (str, bytes))
    return isinstance(value, type(None) if hint is None else hint)


def _check_path(function: str, name: str, value: str | Path) -> None:
    if not str(value):
        raise ConfigError(f"{function}: {name} cannot be a path: it is empty")
    try:
        Path(value).expanduser().stat()
    except ValueError as error:  # UnicodeEncodeError among them
        reason = "it holds a NUL character" if "\0" in str(value) else "it holds half of a surrogate pair"
        raise ConfigError(f"{function}: {name} {_quote(value)} cannot be a path: {reason}") from error
    except RuntimeError as error:
        raise ConfigError(f"{function}: {name} {_quote(value)} cannot be a path: there is no such user") from error
    except OSError:
        pass  # a possible path, though it cannot be looked at


def _describe_type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(option) for option in arguments)
    if hint in (None, type(None)):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is not None:
        kinds = [_describe_type(argument) for argument in arguments if argument is not ...]
        return f"a mapping of {' to '.join(kinds)}" if issubclass(origin, Mapping) else f"a list of {', '.join(kinds)}"
    return str(getattr(hint, "__name__", hint))


def _quote(value: object) -> str:
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (list, tuple)):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a {type(value).__name__} of {', '.join(kinds)}"
    if not isinstance(value, (str, int, float, Path, type(None))):
        return f"a {type(value).__name__}"
    text = ascii(str(value)) if isinstance(value, (str, Path)) else repr(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[: _MAX_QUOTED - 3]}..."
