"""A value of a JSON file that knows where it stands, so that what is wrong with it is said in one line.

A results file may come from a stranger, be cut short, or be older or newer than this code: what is there is
checked before it is used, what is unknown is ignored, and null is the same as absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from graft.errors import DataError

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # neither HTML nor SVG may hold them

_LARGEST = 1e100  # above any metric, and its square is still finite


@dataclass(frozen=True)
class Node:
    """A JSON value, the file it stands in and the keys that lead to it."""

    value: Any
    file: Path
    keys: tuple[str, ...] = ()

    @classmethod
    def load(cls, file: Path) -> Node:
        """Read a file as one value.

        Raises:
            DataError: it cannot be read, or is not JSON.
        """
        try:
            return cls(_printable(json.loads(file.read_text(encoding="utf-8"))), file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: not valid JSON ({' '.join(str(error).split())})") from error

    def items(self) -> Iterator[tuple[str, Node]]:
        """Return key and value of each entry of a mapping that is not null.

        Raises:
            DataError: the value is not a mapping.
        """
        if not isinstance(self.value, dict):
            self.refuse("a mapping")
        return ((key, self._below(key, value)) for key, value in self.value.items() if value is not None)

    def get(self, key: str) -> Node | None:
        """Return the entry of a mapping, None where it is absent; DataError where the value is not a mapping."""
        return dict(self.items()).get(key)

    def need(self, key: str) -> Node:
        """Return the entry of a mapping; DataError where it is absent."""
        entry = self.get(key)
        if entry is None:
            raise DataError(f"{self._place}: the key {key!r} is missing")
        return entry

    def elements(self) -> list[Node]:
        """Return the elements of a list; DataError where the value is none."""
        if not isinstance(self.value, list):
            self.refuse("a list")
        return [self._below(str(i), value) for i, value in enumerate(self.value)]

    def numbers(self) -> dict[str, float]:
        """Return the entries of a mapping that are numbers; others are left out."""
        return {key: node.number() for key, node in self.items() if node.is_number}

    @property
    def is_number(self) -> bool:
        """True for a number; true and false are none."""
        return isinstance(self.value, (int, float)) and not isinstance(self.value, bool)

    def number(self) -> float:
        """Return the value as a number, whole where it is written so; DataError where it is none, or is not finite."""
        if not self.is_number or abs(self.value) > _LARGEST or self.value != self.value:
            self.refuse("a finite number")
        number: float = self.value
        return number

    def whole(self) -> int:
        """Return the value as a whole number from 0; DataError where it is none."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value < 2**63:
            self.refuse("a whole number")
        return self.value

    def text(self) -> str:
        """Return the value as a text; DataError where it is none."""
        if not isinstance(self.value, str):
            self.refuse("a text")
        return self.value

    def refuse(self, wanted: str) -> NoReturn:
        """Refuse the value with a line on what it should have been."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise DataError(f"{self._place}: must be {wanted}, not {shown}")

    def _below(self, key: str, value: Any) -> Node:
        return Node(value, self.file, (*self.keys, key))

    @property
    def _place(self) -> str:
        return f"{self.file}: {'.'.join(self.keys)}" if self.keys else str(self.file)


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_UNPRINTABLE.sub("\ufffd", key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return _UNPRINTABLE.sub("\ufffd", value) if isinstance(value, str) else value
