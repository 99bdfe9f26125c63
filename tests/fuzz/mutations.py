"""Ways to make a patch file hostile: small functions of (random draws, parts), registered in a literal table."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from tests.fuzz.parts import SEEDS, Parts

Draw = random.Random
Mutation = Callable[[Draw, Parts], object]

NUMBERS = (-1, 0, 1, 2, 7, 8, 2**15, 65_534, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1)
HUGE = (2**63, 2**64 - 1, 2**64, 2**64 + 1, 10**30, -(2**63), 1e308, 0.5, 2.0)
NAMES = (
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "a\0b",
    "a\nb",
    "\u202ea",
    "a" * 300,
    "%s{0}",
    "dense/",
    "gaps",
)
NAMES += ("values.F32", "base.BF16", "bits", "__metadata__", "ß", "\U0001f600", "<script>", "$(touch x)", "a" * 20_000)
DTYPES = ("F32", "BF16", "F16", "F64", "I64", "U8", "U16", "BOOL", "F8_E4M3", "F8_E5M2", "F31", "U64", "I8", "f32", "")
CODES = ("all", "bits", "gaps", "", "zebra", None, 0)
WRAPPING = ([2**32, 2**32], [2**63, 2], [2**16] * 4, [0, 2**62], [1] * 70, [2**62], [-1, -4], [3, 0], [], [2**31, 2])
NANS = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x01\x00\x80\xff", b"\xc0\x7f", b"\x00\x7c", b"\x7f\xff\xff\xff")
TEXTS = (
    '{"k":1,"k":1,',
    '{"zebra":NaN,',
    '{"zebra":1e999,',
    '{"z":' + "[" * 80 + "]" * 80 + ",",
    "{ \t\n",
    '{"\\ud800":1,',
)
TEXTS += (
    '{"z":' + "9" * 5000 + ",",
    "[{",
    "\ufeff{",
    '{"tensors":[],',
    '{"format":1,',
    "{,",
    '{"base":{"id":1,"id":2},',
)


def any_value(draw: Draw) -> Any:
    kind = draw.randrange(6)
    if kind < 2:
        return draw.choice(NUMBERS + HUGE)
    if kind == 2:
        return draw.choice(NAMES)
    if kind == 3:
        return draw.choice((None, True, False, [], {}, [[]], {"a": {}}, "F32"))
    return [draw.choice(NUMBERS) for _ in range(draw.randrange(4))] if kind == 4 else {draw.choice(NAMES): 1}


def replace_node(draw: Draw, parts: Parts) -> None:
    """Any node of the metadata or of the header."""
    place: Any = draw.choice((parts.meta, parts.entries, parts.rows or parts.meta))
    while isinstance(place, (dict, list)) and place:
        key = draw.choice(sorted(place, key=str)) if isinstance(place, dict) else draw.randrange(len(place))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.2:
            place[key] = any_value(draw)
            return
        place = place[key]


def a_row(draw: Draw, parts: Parts) -> list[Any]:
    """A row that is one still; a throw-away where there is none."""
    rows = [row for row in parts.rows if isinstance(row, list) and len(row) == 8]
    return draw.choice(rows) if rows else [None] * 8


def change_count(draw: Draw, parts: Parts) -> None:
    row, place = a_row(draw, parts), draw.choice((4, 5))
    near = row[place] + draw.choice((-1, 1)) if type(row[place]) is int else 1
    row[place] = draw.choice((near, near, draw.choice(NUMBERS), draw.choice(HUGE)))


def change_shape(draw: Draw, parts: Parts) -> None:
    row = a_row(draw, parts)
    whole = isinstance(row[2], list) and row[2] and all(type(size) is int for size in row[2])
    grown = [*row[2][:-1], row[2][-1] + draw.choice((-1, 1, 8, 2**20))] if whole else [1]
    row[2] = draw.choice((draw.choice(WRAPPING), grown, [draw.choice(NUMBERS) for _ in range(draw.randrange(1, 4))]))


def change_code(draw: Draw, parts: Parts) -> None:
    a_row(draw, parts)[3] = draw.choice(CODES)


def fit_count(draw: Draw, parts: Parts) -> None:
    """A row that is sound in itself, of another size than its data."""
    row = a_row(draw, parts)
    n = draw.choice((1, 3, 8, 100, 2**16, 2**24, 2**31, 2**40))
    row[2:6] = draw.choice(
        ([[n], "all", n, 0], [[n], "bits", max(1, n // 2), 0], [[n], "gaps", 1, draw.choice((1, n))])
    )


def change_name(draw: Draw, parts: Parts) -> None:
    a_row(draw, parts)[0] = draw.choice(NAMES)
    if draw.random() < 0.5:
        parts.rows.sort(key=lambda row: str(row[0]) if isinstance(row, list) and row else "")


def change_dtype(draw: Draw, parts: Parts) -> None:
    a_row(draw, parts)[1] = draw.choice(DTYPES)


def shuffle_rows(draw: Draw, parts: Parts) -> None:
    rows = parts.rows
    if rows:
        i = draw.randrange(len(rows))
        draw.choice(
            (lambda: rows.append(rows[i]), lambda: rows.pop(i), rows.reverse, lambda: rows.insert(0, rows[i]))
        )()


def an_entry(draw: Draw, parts: Parts) -> dict[str, Any]:
    entries = [entry for entry in parts.entries.values() if isinstance(entry, dict)]
    return draw.choice(entries) if entries else {}


def change_offsets(draw: Draw, parts: Parts) -> None:
    entry = an_entry(draw, parts)
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(item) is int for item in offsets):
        offsets = [0, 4]
    start, stop = offsets
    step = draw.choice((1, 2, 4, 8))
    choices = [[start + step, stop + step], [start, stop + step], [stop, start], [0, 0], [draw.choice(NUMBERS), stop]]
    entry["data_offsets"] = draw.choice([*choices, [start, draw.choice(NUMBERS)], [2**63 - 4, 2**63], [start], "x"])


def change_entry(draw: Draw, parts: Parts) -> None:
    entry = an_entry(draw, parts)
    key = draw.choice(("dtype", "shape"))
    entry[key] = draw.choice(DTYPES if key == "dtype" else (*WRAPPING, [draw.choice(NUMBERS)]))


def rename_tensor(draw: Draw, parts: Parts) -> None:
    if parts.payload:
        old, new = (
            draw.choice(sorted(parts.payload)),
            draw.choice((*NAMES, "dense/x", "dense/../../x", "values.U8", "zebra")),
        )
        parts.entries = {new if name == old else name: entry for name, entry in parts.entries.items()}
        parts.payload = {new if name == old else name: data for name, data in parts.payload.items()}


def drop_tensor(draw: Draw, parts: Parts) -> None:
    if parts.payload:
        name = draw.choice(sorted(parts.payload))
        parts.payload.pop(name)
        parts.entries.pop(name, None)


def add_tensor(draw: Draw, parts: Parts) -> None:
    name = draw.choice((*NAMES, "dense/y", "dense/../y", "values.F16", "base.F64", "gaps", "bits"))
    size = draw.choice((0, 4, 8, 400))
    parts.payload[name] = draw.randbytes(size)
    start = sum(map(len, parts.payload.values())) - size
    shape = draw.choice(([size // 4], [1, size // 4], [size // 4, 1], []))
    parts.entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}


def spoil_payload(draw: Draw, parts: Parts) -> None:
    """NaN, infinity, runs of the continuation token, random bytes; of the same length or not."""
    if not parts.payload:
        return
    name = draw.choice(sorted(parts.payload))
    data = bytearray(parts.payload[name])
    place = draw.randrange(len(data) + 1)
    new = draw.choice((draw.choice(NANS), b"\xff" * draw.choice((2, 4, 64)), draw.randbytes(draw.choice((1, 2, 8)))))
    if draw.random() < 0.7:
        place -= place % 2
        data[place : place + len(new)] = new[: len(data) - place]
    else:
        data[place : place + draw.randrange(9)] = new
    parts.payload[name] = bytes(data)


def lie_of_origin(draw: Draw, parts: Parts) -> None:
    """What the file says of its base, method, task and sizes."""
    if isinstance(parts.meta, dict):
        key = draw.choice(("base", "tied", "scope", "n_maskable", "method", "task", "metrics", "k", "density", "kind"))
        inner = draw.choice((any_value(draw), {"id": any_value(draw), "n_parameters": any_value(draw)}))
        parts.meta[key] = draw.choice((inner, inner, "mask", "patch"))


def spoil_text(draw: Draw, parts: Parts) -> None:
    """Duplicate keys, NaN, deep nesting, wrong brackets: what no JSON writer makes."""
    draw.choice((parts.edits, parts.header_edits)).append(("{", draw.choice(TEXTS)))


def bomb_header(draw: Draw, parts: Parts) -> None:
    """A long header: many keys, rows or blanks."""
    n = 1000 if draw.random() < 0.02 else 20
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    if draw.random() < 0.5:
        parts.entries |= {f"dense/{i}": empty for i in range(n)}
    elif parts.rows:
        parts.rows.extend(parts.rows[-1:] * n)
    else:
        parts.edits.append(("{", "{" + " " * n))


def spoil_hashes(draw: Draw, parts: Parts) -> None:
    """Hashes of what is not there, none of what is, of another length or kind, or none at all."""
    if not isinstance(parts.meta, dict):
        return
    key = draw.choice(("content", "table"))
    content = parts.meta.get("content")
    if isinstance(content, dict) and key == "content" and draw.random() < 0.7:
        name = draw.choice((*sorted(content, key=str), *NAMES))
        content[name] = draw.choice(("0" * 31, "0" * 32, "A" * 32, any_value(draw)))
        if draw.random() < 0.3:
            del content[name]
    elif draw.random() < 0.5:
        parts.meta[key] = any_value(draw)
    else:
        for dropped in (key, draw.choice(("content", "table"))):
            parts.meta.pop(dropped, None)


MUTATIONS: dict[str, Mutation] = {
    "any node": replace_node,
    "count": change_count,
    "shape": change_shape,
    "code": change_code,
    "another size": fit_count,
    "name": change_name,
    "dtype": change_dtype,
    "rows": shuffle_rows,
    "offsets": change_offsets,
    "entry": change_entry,
    "rename": rename_tensor,
    "drop": drop_tensor,
    "add": add_tensor,
    "payload": spoil_payload,
    "origin": lie_of_origin,
    "text": spoil_text,
    "long header": bomb_header,
    "hashes": spoil_hashes,
}


def hostile_file(draw: Draw) -> bytes:
    """One file: a good one, some mutations, repaired and sealed again or not, and at times spoilt as plain bytes."""
    parts = draw.choice(SEEDS).copy()
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        draw.choice(list(MUTATIONS.values()))(draw, parts)
    if draw.random() < 0.6:
        parts.repair()
    if draw.random() < 0.5:
        parts.reprint()
    if draw.random() < 0.5:  # in the others the hashes are the good file's, and most stop there
        parts.reseal()
    data = parts.join()
    return spoil_bytes(draw, data) if draw.random() < 0.15 else data


def spoil_bytes(draw: Draw, data: bytes) -> bytes:
    """A wrong header length, flipped, cut, appended or repeated bytes."""
    kind = draw.randrange(5)
    if kind == 0:
        length = draw.choice((0, 1, len(data) - 8, len(data) - 7, 2**25 + 1, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", length) + data[8:]
    if kind == 1:
        return data[: draw.randrange(len(data))]
    if kind == 2:
        return data + draw.randbytes(draw.choice((1, 8, 64)))
    spoilt = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(data))
        spoilt[place : place + 1] = draw.randbytes(1) if kind == 3 else spoilt[place : place + 40]
    return bytes(spoilt)
