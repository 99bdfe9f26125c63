"""Rows of a dataset: local jsonl, json, csv and parquet files, and Hub datasets."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from graft.errors import DataError
from graft.files.inputs import open_input
from graft.specs.data import MIRROR, SplitSpec

Row = dict[str, Any]
_LONGEST_FIELD = 2**31 - 1  # characters of a csv cell; the library's own limit is 131,072


def read_dataset(spec: SplitSpec, folder: Path) -> list[Row]:
    """Read all rows of a split.

    Args:
        spec: the split's path, or Hub dataset, and columns.
        folder: local paths are relative to it.

    Raises:
        DataError: the file or dataset is missing, not readable, or empty; a row is malformed, or ambiguous, and named.
    """
    try:
        path = folder / Path(spec.path).expanduser()
    except RuntimeError as error:  # ~ of a user whom the machine does not know
        raise DataError(f"{spec.path}: cannot be read ({error})") from error
    if os.path.exists(path) or spec.path.startswith(("/", ".", "~")) or path.suffix.lower() in _READERS:  # noqa: PTH110 - Path.exists raises at a name that is too long
        if spec.name is not None or spec.split is not None or spec.revision is not None:
            raise DataError(f"{path}: name and split belong to a dataset of the Hub, and this is a file")
        rows = _read_local(path)
    else:
        rows = _read_hub(spec)
    if not rows:
        raise DataError(f"{spec.path}: the split is empty")
    return rows


def find_mirrored(spec: SplitSpec, mirror: Path | None) -> SplitSpec:
    """Return the split to read: its file in a local mirror, which has the task's own columns, where there is one.

    Raises:
        DataError: the mirror lacks the file.
    """
    if mirror is None or spec.local is None:
        return spec
    if not (mirror / spec.local).exists():
        raise DataError(
            f"{mirror}: the local mirror has no {spec.local}, which stands in for {spec.path}; without --data-root and "
            f"{MIRROR} it is read from the Hub"
        )
    return SplitSpec(str(mirror / spec.local))


def _read_local(path: Path) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"{path}: a dataset must end in {', '.join(_READERS)}")
    try:
        with open_input(path) as file:
            return list(_READERS[suffix](file, path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text") from error


def _as_text(file: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)  # -sig: some tools write a byte order mark


def _read_jsonl(file: BinaryIO, path: Path) -> Iterator[Row]:
    with _as_text(file) as lines:
        yield from _parse_lines(lines, path)


def _read_json(file: BinaryIO, path: Path) -> Iterator[Row]:
    """Read one array of rows; or one row a line, since many tools give such files this name."""
    text = file.read().decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _parse_lines(io.StringIO(text), path)
        return
    for number, row in enumerate(_parse(text, f"{path}"), start=1):
        yield _require_row(row, f"{path}, row {number}")


def _parse_lines(lines: Iterable[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _require_row(_parse(line, where), where)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON") from error


def _unique(pairs: list[tuple[str, Any]], where: str) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise DataError(f"{where}: the key {_find_repeated(key for key, _ in pairs)!r} occurs twice")
    return row


def _find_repeated(names: Iterable[str]) -> str:
    """Return the first name that repeats an earlier one; there must be one."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _require_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object")
    return value


def _read_csv(file: BinaryIO, path: Path) -> Iterator[Row]:
    with _as_text(file, newline="") as lines:
        limit, cells = csv.field_size_limit(_LONGEST_FIELD), csv.reader(lines, strict=True)
        try:  # strict, since an open quote would otherwise swallow the rows after it
            yield from _parse_cells(cells, path)
        except csv.Error as error:
            raise DataError(f"{path}, line {cells.line_num}: not valid csv ({error})") from error
        finally:
            csv.field_size_limit(limit)


def _parse_cells(lines: Iterator[list[str]], path: Path) -> Iterator[Row]:
    nonblank = filter(None, lines)  # a blank line is no row
    columns = next(nonblank, [])
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: the column {_find_repeated(columns)!r} occurs twice")
    for number, cells in enumerate(nonblank, start=1):
        if len(cells) != len(columns):
            hint = "; a text with a comma in it must be quoted" if len(cells) > len(columns) else ""
            raise DataError(f"{path}, row {number}: {len(cells)} cells under {len(columns)} columns{hint}")
        yield dict(zip(columns, cells, strict=True))


def _read_parquet(file: BinaryIO, path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: parquet needs pyarrow; pip install pyarrow") from error
    try:
        table = pyarrow.parquet.ParquetFile(file).read()
        if len(set(table.column_names)) < len(table.column_names):
            raise DataError(f"{path}: the column {_find_repeated(table.column_names)!r} occurs twice")
        yield from table.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a parquet file ({' '.join(str(error).split())[:100]})") from error


def _read_hub(spec: SplitSpec) -> list[Row]:
    if os.path.exists(spec.path):  # noqa: PTH110 - as above
        raise DataError(f"{spec.path}: what has this name in the working folder would be read in the Hub's place")
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{spec.path}: no such file, and a Hub dataset needs the datasets library; pip install datasets"
        ) from error
    try:
        loaded = datasets.load_dataset(spec.path, spec.name, split=spec.split or "train", revision=spec.revision)
    except Exception as error:  # the library raises many kinds, network errors among them
        fact = str(error).strip().partition("\n")[0]
        hint = f"; a local mirror that has {spec.local} can stand in for it (--data-root)" if spec.local else ""
        raise DataError(f"{spec.path}: no such file, and not to be had from the Hub ({fact}){hint}") from error
    texts = (spec.text,) if isinstance(spec.text, str) else spec.text or ()
    return [_join_parts(row, texts) for row in loaded.flatten()]


def _join_parts(row: Row, columns: Iterable[str]) -> Row:
    """Join texts that a dataset has as lists of parts, such as the sections of an abstract."""
    parts = {column: row.get(column) for column in columns}
    return row | {column: " ".join(map(str, value)) for column, value in parts.items() if isinstance(value, list)}


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
