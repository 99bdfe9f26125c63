"""Rows that a program holds already: lists of dicts, and datasets of the datasets library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graft.errors import DataError
from graft.tasks.rows import Row


def take_rows(held: Any, where: str, columns: Iterable[str], label: str) -> list[Row]:
    """Return rows as dicts; positions in a dataset's column of class labels become these labels' names.

    Args:
        held: a list of dicts, or a `datasets.Dataset`.
        where: what to call them in an error.
        columns: the columns that will be read; a dataset's others are left out where all of these are there.
        label: the column of the label.

    Raises:
        DataError: neither of the two, or empty.
    """
    names = class_names(held, label)
    rows = _rows_of_dataset(held, set(columns)) if _is_dataset(held) else held
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"{where}: must be a list of dicts or a datasets.Dataset, not {_describe(held)}")
    if not rows:
        raise DataError(f"{where}: the split is empty")
    return [_name_label(dict(row), label, names) for row in rows]


def class_names(held: Any, label: str) -> tuple[str, ...]:
    """Return the names that a dataset gives the positions in its column of labels; () where it gives none."""
    feature = (getattr(held, "features", None) or {}).get(label) if _is_dataset(held) else None
    return tuple(map(str, getattr(feature, "names", None) or ()))


def _is_dataset(held: Any) -> bool:
    return hasattr(held, "features") and hasattr(held, "with_format")


def _rows_of_dataset(held: Any, columns: set[str]) -> list[Row]:
    plain = held.with_format(None)
    if columns <= set(getattr(plain, "column_names", None) or ()):
        plain = plain.select_columns(sorted(columns))
    return list(plain)


def _name_label(row: Row, label: str, names: Sequence[str]) -> Row:
    position = row.get(label)
    if isinstance(position, int) and not isinstance(position, bool) and 0 <= position < len(names):
        return {**row, label: names[position]}
    return row


def _describe(held: Any) -> str:
    if isinstance(held, (list, tuple)):
        return f"a list with a {next(type(row).__name__ for row in held if not isinstance(row, Mapping))} in it"
    return f"a {type(held).__name__}"
