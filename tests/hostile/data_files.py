"""Rows of a dataset that are wrong: in what they hold, in how they are written down, or in being no file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.values import Draw, Meaning, gravest, misspelt, odd_value

Rows = list[dict[str, Any]]
RowMutation = Callable[[Draw, Rows], Meaning | None]
FORMS = ("jsonl", "jsonl", "jsonl", "csv", "csv", "json", "parquet")


def a_row(draw: Draw, rows: Rows) -> dict[str, Any]:
    return draw.choice(rows) if rows else {}


def drop_cell(draw: Draw, rows: Rows) -> Meaning | None:
    row = a_row(draw, rows)
    if row:
        row.pop(draw.choice(list(row)))
    return None


def rename_column(draw: Draw, rows: Rows) -> Meaning | None:
    old = draw.choice(list(rows[0]) if rows and rows[0] else ["text"])
    new = misspelt(draw, old)
    for row in rows:
        if old in row:
            row[new] = row.pop(old)
    return None


def odd_cell(draw: Draw, rows: Rows) -> Meaning | None:
    row = a_row(draw, rows)
    if row:
        row[draw.choice(list(row))] = odd_value(draw)
    return None


def label_outside(draw: Draw, rows: Rows) -> Meaning | None:
    row = a_row(draw, rows)
    if "label" not in row:
        return None
    row["label"] = draw.choice((7, -2, 99999999999, "neutral", "GLAD", " glad", "", None, True, 1.0, 0.5, [1], "1.0"))
    return "wrong"


def mixed_kinds(draw: Draw, rows: Rows) -> Meaning | None:
    """One label by position among names, or the other way round."""
    row = a_row(draw, rows)
    if isinstance(row.get("label"), str) and "choices" not in row:
        row["label"] = draw.choice((0, 1, "0", "1"))
    elif "label" in row:
        row["label"] = draw.choice(("sad", "glad", str(row["label"])))
    return None


def no_text(draw: Draw, rows: Rows) -> Meaning | None:
    row = a_row(draw, rows)
    if not row:
        return None
    row["text"] = draw.choice(("", "   ", "\n", None, 5, ["a", "b"], {"a": 1}, True))
    return "wrong"


def long_text(draw: Draw, rows: Rows) -> Meaning | None:
    """A text beyond all limits: of the positions, of a csv field, of patience."""
    row = a_row(draw, rows)
    if row:
        row["text"] = draw.choice(
            ("good film " * 40, "the " * 50_000, "x" * 140_000, "\u200b" * 5000, "\n" * 300 + "x")
        )
    return None


def odd_text(draw: Draw, rows: Rows) -> Meaning | None:
    row = a_row(draw, rows)
    if row:
        odd = (
            "[MASK]",
            "[PAD] [PAD]",
            "[SEP] good [CLS]",
            "\x00",
            "\ud800",
            "\ufffe",
            '"',
            "a,b",
            "{text}",
            "%s",
            "=1+1",
        )
        row["text"] = draw.choice(odd)
    return None


def more_columns(draw: Draw, rows: Rows) -> Meaning | None:
    """Cells that nobody asks for, in some rows or all."""
    for row in rows if draw.random() < 0.5 else rows[1:2]:
        row[draw.choice(("id", "Text", "text ", "label2", ""))] = odd_value(draw)
    return None


def other_number(draw: Draw, rows: Rows) -> Meaning | None:
    """No row, one, or all of one label."""
    keep = draw.choice(([], rows[:1], [row for row in rows if row.get("label") == rows[0].get("label")]))
    rows[:] = keep
    return None if rows else "wrong"


def odd_choices(draw: Draw, rows: Rows) -> Meaning | None:
    row = a_row(draw, rows)
    if "choices" in row:
        row["choices"] = draw.choice(
            ([], ["good"], "good", ["good", ""], ["good", 1], ["good", "good"], {"a": "b"}, None)
        )
    return None


ROWS: dict[str, RowMutation] = {
    "cell dropped": drop_cell,
    "column renamed": rename_column,
    "odd cell": odd_cell,
    "label outside": label_outside,
    "names and positions": mixed_kinds,
    "no text": no_text,
    "long text": long_text,
    "odd text": odd_text,
    "more columns": more_columns,
    "other number of rows": other_number,
    "odd choices": odd_choices,
}


def write_rows(rows: Rows, form: str) -> bytes:
    """A file of rows; what a form cannot hold becomes text in it."""
    if form == "parquet":
        return _parquet(rows)
    if form == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode("utf-8", "surrogatepass")
    lines = [json.dumps(row, default=str) for row in rows]
    return (f"[{', '.join(lines)}]" if form == "json" else "".join(line + "\n" for line in lines)).encode()


def _parquet(rows: Rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    try:
        table = pyarrow.Table.from_pylist(rows)
    except (pyarrow.ArrowException, UnicodeError, OverflowError, TypeError):
        table = pyarrow.Table.from_pylist([{key: ascii(value) for key, value in row.items()} for row in rows])
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def spoil_bytes(draw: Draw, data: bytes, form: str) -> tuple[bytes, Meaning]:
    place = draw.randrange(len(data) + 1)
    junk = draw.choice((b"\x00", b"\xff\xfe", b"\n", b'"', b",", b"}", b"]", b"\x1a", b"\r", b"\xe2\x80\xa8", b"{"))
    return data[:place] + junk + data[place:], "hostile"


def cut(draw: Draw, data: bytes, form: str) -> tuple[bytes, Meaning]:
    return data[: draw.randrange(len(data) + 1)], "hostile"


def extra_cells(draw: Draw, data: bytes, form: str) -> tuple[bytes, Meaning]:
    """A csv row with more cells than the header, or a JSON row with one key twice."""
    lines = data.split(b"\n")
    place = draw.randrange(max(len(lines) - 1, 1))
    if form == "csv" and place:
        lines[place] = lines[place].rstrip(b"\r") + draw.choice((b",x", b",x,,y", b",1"))
        return b"\n".join(lines), "wrong"
    if form == "jsonl":
        lines[place] = lines[place].replace(b"{", b'{"label": 1, "text": "bad", ', 1)
    return b"\n".join(lines), "hostile"


def rewrite(draw: Draw, data: bytes, form: str) -> tuple[bytes, Meaning]:
    """The same rows, written down in another way."""
    if form == "parquet":
        return data, "harmless"
    ways = [b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n") if form != "csv" else data, data + b"\n"]
    if form == "jsonl":
        ways += [data.replace(b"\n", b"\n\n"), b"".join(json.dumps(json.loads(line)).encode() + b"\n" for line in
                 data.splitlines())]  # fmt: skip
    return draw.choice(ways), "harmless"


def other_content(draw: Draw, data: bytes, form: str) -> tuple[bytes, Meaning]:
    other = (b"", b"\n", b"null", b"[]", b"{}", b"[1, 2]", b'"text"', b"PK\x03\x04", b"\x1f\x8b\x08", b"text,label\n")
    deep = b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    number = b'{"text": "good", "label": ' + b"9" * 5000 + b"}"
    columns = b'{"data": [{"text": "good", "label": 1}]}'
    return draw.choice((*other, deep, number, columns, data.decode("latin-1").encode("utf-16"))), "hostile"


BYTES: dict[str, Callable[[Draw, bytes, str], tuple[bytes, Meaning]]] = {
    "spoilt bytes": spoil_bytes,
    "cut": cut,
    "extra cells": extra_cells,
    "written otherwise": rewrite,
    "other content": other_content,
}


def no_file(draw: Draw, path: Path) -> str:
    """Something else in the place of a file; returns what."""
    path.unlink(missing_ok=True)
    kind = draw.choice(
        ("nothing", "a folder", "a FIFO", "a dangling link", "a link to itself", "a device", "unreadable")
    )
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a dangling link":
        path.symlink_to("gone")
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a device":
        path.symlink_to(draw.choice(("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")))
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem")
    return kind


def hostile_data(draw: Draw, path: Path, rows: Rows) -> tuple[Path, list[str], Meaning]:
    """Write a file of rows in the place of `path`; where, what was done to it, and what that means."""
    form = draw.choice(FORMS)
    path.unlink(missing_ok=True)
    path = path.with_suffix(f".{form}")
    rows, names = json.loads(json.dumps(rows)), [form]
    meanings: list[Meaning] = []
    for _ in range(draw.choice((0, 0, 1, 1, 1, 2))):
        name = draw.choice(list(ROWS))
        names.append(name)
        meanings.append(ROWS[name](draw, rows) or "hostile")
    data = write_rows(rows, form)
    if not meanings or draw.random() < 0.2:
        name = draw.choice(list(BYTES))
        try:
            data, meaning = BYTES[name](draw, data, form)
        except ValueError:  # mutated before: it cannot be read to be written otherwise
            meaning = "hostile"
        names.append(name)
        meanings.append(meaning)
    path.write_bytes(data)
    if draw.random() < 0.06:
        names.append(no_file(draw, path))
        meanings = ["hostile"]
    if form == "csv" and len(rows) and meanings == ["wrong"] and names[1] in ("label outside", "no text"):
        meanings = ["hostile"]  # csv makes text of it, which may be one
    return path, names, gravest(meanings) if len(meanings) == 1 else "hostile"
