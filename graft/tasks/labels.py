"""Labels of rows as positions: of a class among the task's, or of the right one among the row's choices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from graft.errors import DataError
from graft.specs.data import SplitSpec
from graft.specs.task import TaskSpec
from graft.tasks.rows import Row

NONE_OF_THESE = -1  # a class that training does not have: left out of accuracy, used for OOD detection

LabelReader = Callable[[Row, int, int], int]  # row, its number in the file, its count of choices -> position


def label_reader(rows: Sequence[Row], spec: SplitSpec, task: TaskSpec) -> LabelReader:
    """Return a reader of a file's labels, which raises a DataError that names the row.

    Args:
        rows: of the file; the first one decides between labels by name and by position.
        spec: the file's own columns, label names and map.
        task: the task's.
    """
    if not task.head.entry.has_labels:
        return lambda row, number, n_choices: 0
    return _class_reader(rows, spec, task) if task.has_classes else _choice_reader(rows, spec, task)


def cell_of(row: Row, column: str, spec: SplitSpec, number: int) -> Any:
    """Return the value of a row in a column.

    Raises:
        DataError: it has no such column.
    """
    if column not in row:
        raise refuse_row(spec, number, f"no column {column!r}; it has {', '.join(map(str, row))}")
    return row[column]


def refuse_row(spec: SplitSpec, number: int, fact: str) -> DataError:
    """Return the error that names file and row."""
    return DataError(f"{spec.path}, row {number}: {fact}")


def _class_reader(rows: Sequence[Row], spec: SplitSpec, task: TaskSpec) -> LabelReader:
    """Return a reader of classes; names and positions may not be mixed in one file."""
    column, names = spec.label or task.label, tuple(spec.labels or task.labels)
    _refuse_two_readings([row.get(column) for row in rows], names, spec, column)
    by_name = bool(rows) and isinstance(_parse_position(rows[0].get(column), names), str)
    positions = {name: i for i, name in enumerate(task.labels)} | {None: NONE_OF_THESE}

    def read(row: Row, number: int, n_choices: int) -> int:
        """Return the position of a row's class."""
        value = _parse_position(cell_of(row, column, spec, number), names)
        if isinstance(value, str) is not by_name or isinstance(value, (bool, float)) or value is None:
            kind = "a name" if by_name else "a position"
            raise refuse_row(spec, number, f"label {value!r} in column {column!r} is not {kind}")
        if value == NONE_OF_THESE:
            return NONE_OF_THESE
        if value not in (names if by_name else range(len(names))):
            raise refuse_row(spec, number, f"label {value!r} is outside the list {list(names)}")
        name = value if by_name else names[value]
        mapped = spec.map.get(name, name)
        if mapped not in positions:
            raise refuse_row(spec, number, f"label {name!r} is not one of the task's; give it a place with `map`")
        return positions[mapped]

    return read


def _choice_reader(rows: Sequence[Row], spec: SplitSpec, task: TaskSpec) -> LabelReader:
    column, names = spec.label or task.label, spec.labels or task.labels
    if isinstance(names, str):
        return _named_choice_reader(column, names, spec)
    _refuse_two_readings([row.get(column) for row in rows], names, spec, column)

    def read(row: Row, number: int, n_choices: int) -> int:
        """Return the position of a row's choice."""
        value = _parse_position(cell_of(row, column, spec, number), names)
        position = names.index(value) if value in names else value
        if not isinstance(position, int) or isinstance(position, bool) or not NONE_OF_THESE <= position < n_choices:
            raise refuse_row(spec, number, f"label {value!r} is not the place of one of its {n_choices} choices")
        return position

    return read


def _named_choice_reader(column: str, names_column: str, spec: SplitSpec) -> LabelReader:
    """Return a reader of labels that are names of the row's own choices: "B" of A to D here, "2" of 1 to 4 there."""

    def read(row: Row, number: int, n_choices: int) -> int:
        """Return the position of the choice that a row names."""
        value, names = cell_of(row, column, spec, number), cell_of(row, names_column, spec, number)
        if not isinstance(names, list) or len(names) != n_choices or names.count(value) != 1:
            raise refuse_row(spec, number, f"label {value!r} is not the name of one of its {n_choices} choices")
        return names.index(value)

    return read


def _refuse_two_readings(values: Sequence[Any], names: Sequence[str], spec: SplitSpec, column: str) -> None:
    """Refuse whole numbers that may be positions as well as names of labels, such as 1 to 5."""
    numbers = {value for value in values if type(value) is int and value != NONE_OF_THESE}
    as_names = [str(number) for number in sorted(numbers)]
    differ = any(name in names and names.index(name) != int(name) for name in as_names)
    if differ and set(as_names) <= set(names) and numbers <= set(range(len(names))):
        raise DataError(
            f"{spec.path}: the numbers {', '.join(as_names)} in column {column!r} may be positions or names of labels: "
            "write names as text, in quotes"
        )


def _parse_position(value: Any, names: Sequence[str]) -> Any:
    """Turn a position that a csv file spells as text into a number, unless it is the name of a label."""
    is_position = isinstance(value, str) and value not in names and re.fullmatch(r"-1|0|[1-9][0-9]{0,8}", value)
    return int(value) if is_position else value
