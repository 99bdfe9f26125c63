"""Registries: tables of the things that can be chosen, each row of which says everything about one of them.

A new score, head, metric, fusion method, overlap rule, format, section or plot is one file and one row of such a table;
choices of the command line, help, plans, refusals and the generated reference are read from the rows.
Nothing here, and nothing in a module that holds a registry, imports torch: a row names its function and imports the
module when it is called.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from graft.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a registry; each registry has its own kind of row, with further attributes.

    Attributes:
        name: as people write it in options and YAML.
        help: one line on what it does, without a full stop.
        target: "package.module:name" of the function or class that does it.
        source: the paper or page that describes it, where there is one.
    """

    name: str
    help: str
    target: str
    source: str | None = None

    def load(self) -> Any:
        """Import and return what `target` names."""
        return load_target(self.target)


def load_target(target: str) -> Any:
    """Import and return what "package.module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def name_number(value: float) -> str:
    """Return a number in six digits, or in all that tell it from others, for the names that settings go by."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """A table of rows by name, in the order in which they are shown."""

    def __init__(self, noun: str, entries: Sequence[E]) -> None:
        """Make a registry.

        Args:
            noun: what each row is, as errors and references call it, such as "score".
            entries: the rows.

        Raises:
            ValueError: two rows have one name.
        """
        self.noun = noun
        self._entries = {entry.name: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise ValueError(f"two entries of the registry of {noun}s have one name")

    def __getitem__(self, name: str) -> E:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> E:
        """Return the row of a name.

        Raises:
            ConfigError: there is none; the line names all that there are.
        """
        if name not in self:
            raise ConfigError(f"{name!r} is not a {self.noun}; choose from {', '.join(self)}")
        return self[name]

    def describe(self) -> str:
        """Return the help of all rows as one text, for an option's help."""
        return "; ".join(f"{entry.name}: {entry.help}" for entry in self.values()) + "."

    @contextlib.contextmanager
    def extended(self, entry: E) -> Iterator[None]:
        """Add a row for the length of a block, as an experiment or a test does."""
        if entry.name in self:
            raise ValueError(f"there is a {self.noun} {entry.name!r} already")
        self._entries[entry.name] = entry
        try:
            yield
        finally:
            del self._entries[entry.name]


class LayeredRegistry(Registry[E], Generic[E]):
    """A registry of its own rows and, looked up at each use, those of another; its own take precedence."""

    def __init__(self, noun: str, entries: Sequence[E], below: Registry[E]) -> None:
        """Make a registry over another one.

        Args:
            noun, entries: as in `Registry`.
            below: the other, whose rows are shown after those that it lacks.
        """
        super().__init__(noun, entries)
        self.below = below

    def __getitem__(self, name: str) -> E:
        return self._entries[name] if name in self._entries else self.below[name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._entries if name not in self.below)
        yield from self.below

    def __len__(self) -> int:
        return sum(1 for _ in self)
