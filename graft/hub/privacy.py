"""Refuse to publish absolute paths, names of machines and names of their users."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.errors import PatchError

_PATHS = re.compile(
    r"(?:^|[\s'\"=:(,\[])(?:/(?:home|Users|root|tmp|var|mnt|media|data|opt|srv|usr|private|workspace|work)/|~\w*/|"
    r"[A-Za-z]:[\\/]|\\\\\w|file://)"
)


def refuse_private(value: Mapping[str, Any], where: str) -> None:
    """Refuse texts that hold an absolute path, the home folder, or the name of the machine or its user.

    Raises:
        PatchError: there is such a text; its key is named.
    """
    home, names = str(Path.home()), _private_names()
    for key, text in _texts(value, where):
        if _PATHS.search(text) or (len(home) > 1 and home in text):
            raise PatchError(f"{key}: {text[:60]!r} names a place on a machine, which is not published")
        if any(re.search(rf"\b{re.escape(name)}\b", text) for name in names):
            raise PatchError(f"{key}: {text[:60]!r} names a machine or its user, which is not published")


def _private_names() -> list[str]:
    """Return the names of the machine and its user that hold a digit or a sign, and so cannot be ordinary words."""
    names = [socket.gethostname()]
    with contextlib.suppress(OSError, KeyError):  # a user without a name, as in some containers
        names.append(getpass.getuser())
    return [name for name in names if len(name) > 3 and not name.isalpha()]


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(str(key), path)
            yield from _texts(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _texts(item, f"{path}[{i}]")
