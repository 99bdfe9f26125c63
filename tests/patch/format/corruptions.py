"""A good patch file, and the ways in which a file can be wrong: name -> (bytes, what the message must say)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from graft.patch.format.writing import patch_bytes
from tests.checkpoints import join_file, make_patch, split_file

BASE = {"a": torch.arange(100.0), "b": torch.arange(10.0), "c": torch.zeros(2, dtype=torch.bfloat16)}
PATCH = make_patch(BASE, {"a": {3: 0.5, 70: -0.0}, "b": {1: 7.0, 9: 8.0}, "c": {0: 1.0, 1: 2.0}}, with_base_values=True)
GOOD = patch_bytes(PATCH)  # a: gaps, b: bits, c: all
NAN = (0x7FC00000).to_bytes(4, "little")
Meta = dict[str, Any]


def with_meta(change: Callable[[Meta], object]) -> bytes:
    header, meta, payload = split_file(GOOD)
    change(meta)
    return join_file(header, meta, payload)


def with_row(row: int, column: int, value: object) -> bytes:
    return with_meta(lambda meta: meta["tensors"][row].__setitem__(column, value))


def with_header(change: Callable[[Meta], object]) -> bytes:
    header, meta, payload = split_file(GOOD)
    change(header)
    return join_file(header, meta, payload)


def with_payload(tensor: str, offset: int, new: bytes) -> bytes:
    header, meta, payload = split_file(GOOD)
    start = header[tensor]["data_offsets"][0] + offset
    return join_file(header, meta, payload[:start] + new + payload[start + len(new) :])


def with_tensor(name: str, dtype: str, data: bytes, hole: int = 0) -> bytes:
    header, meta, payload = split_file(GOOD)
    payload += bytes(hole)
    entry = {"dtype": dtype, "shape": [len(data) // 4], "data_offsets": [len(payload), len(payload) + len(data)]}
    return join_file({**header, name: entry}, meta, payload + data)


def without_tensor(name: str) -> bytes:
    """Return the file without one tensor, the others moved up."""
    header, meta, payload = split_file(GOOD)
    start, stop = header.pop(name)["data_offsets"]
    for entry in header.values():
        entry["data_offsets"] = [x - (stop - start) * (x >= stop) for x in entry["data_offsets"]]
    return join_file(header, meta, payload[:start] + payload[stop:])


def with_json(change: Callable[[str], str]) -> bytes:
    header, meta, payload = split_file(GOOD)
    return join_file(header, change(json.dumps(meta)), payload)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


CORRUPTIONS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "junk": (bytes(range(256)) * 4, "not a safetensors file"),
    "zeros": (bytes(1000), "not a safetensors file"),
    "header of 2**60 bytes": ((2**60).to_bytes(8, "little") + GOOD[8:], "cut short"),
    "header is a list": ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
    "header in UTF-16": ((46).to_bytes(8, "little") + '{"__metadata__":{}}  '.encode("utf-16")[:46].ljust(46), "JSON"),
    "no metadata": ((2).to_bytes(8, "little") + b"{}", "not a skill patch"),
    "metadata not texts": (GOOD.replace(b'"skill_patch":"', b'"skill_patch":1,"', 1), "JSON|not texts"),
    "longer than declared": (GOOD + b"\0", "longer than it declares"),
    "deep header": ((10**6).to_bytes(8, "little") + (deep(500_000)).encode(), "JSON"),
    "deep patch JSON": (with_json(lambda text: deep(100_000)), "JSON"),
    "deep row": (with_json(lambda text: text.replace('], "gaps"', "], " + deep(900), 1)), "levels deep"),
    "deep unknown key": (with_json(lambda text: f'{{"zebra":{deep(200)},{text[1:]}'), "levels deep"),
    "NaN in JSON": (with_json(lambda text: f'{{"zebra":NaN,{text[1:]}'), "NaN is not allowed"),
    "infinity in JSON": (with_json(lambda text: f'{{"zebra":-Infinity,{text[1:]}'), "not allowed"),
    "number out of range": (with_json(lambda text: f'{{"zebra":1e999,{text[1:]}'), "1e999 is out of range"),
    "duplicate key": (with_json(lambda text: f'{{"k":6,{text[1:]}'), "occurs twice"),
    "number of 5000 digits": (with_json(lambda text: f'{{"zebra":{"9" * 5000},{text[1:]}'), "JSON"),
    "lone surrogate": (with_json(lambda text: f'{{"zebra":"\\ud800",{text[1:]}'), "JSON"),
    "JSON is a list": (with_json(lambda text: "[]"), "not a JSON object"),
    "no JSON": (with_json(lambda text: "patch"), "JSON"),
    "kind": (with_meta(lambda meta: meta.update(kind="zebra")), "neither 'patch' nor 'mask'"),
    "kind is a list": (with_meta(lambda meta: meta.update(kind=["patch"])), "neither"),
    "no rows": (with_meta(lambda meta: meta.update(tensors=[])), "no table"),
    "rows are an object": (with_meta(lambda meta: meta.update(tensors={"a": 1})), "no table"),
    "short row": (with_meta(lambda meta: meta["tensors"][0].pop()), "a row of its table"),
    "base is a text": (with_meta(lambda meta: meta.update(base="x")), "'base' is not"),
    "digest is a number": (with_meta(lambda meta: meta["base"].update(digest=3)), "'base.digest'"),
    "method is a list": (with_meta(lambda meta: meta.update(method=[1])), "'method'"),
    "maskable is negative": (with_meta(lambda meta: meta.update(n_maskable=-1)), "'n_maskable'"),
    "name is a number": (with_row(0, 0, 7), "a row of its table"),
    "duplicate name": (with_row(1, 0, "a"), "'a' is out of order or occurs twice"),
    "unsorted rows": (with_row(0, 0, "bb"), "'b' is out of order"),
    "unknown dtype": (with_row(0, 1, "F31"), "'a' has an unknown dtype"),
    "dtype is a list": (with_row(0, 1, ["F32"]), "'a' has an unknown dtype"),
    "shape is a number": (with_row(0, 2, 100), "'a' has an impossible shape"),
    "negative shape": (with_row(0, 2, [-100]), "'a' has an impossible shape"),
    "shape of a bool": (with_row(0, 2, [100, True]), "'a' has an impossible shape"),
    "shape of a fraction": (with_row(0, 2, [100.0]), "'a' has an impossible shape"),
    "empty shape dimension": (with_row(0, 2, [0, 5]), "'a' has 2 entries"),
    "huge shape": (with_row(1, 2, [2**62] * 3), "'b' has 2 entries"),
    "bits of 2**60 elements": (with_row(1, 2, [2**60]), "'bits' must be"),
    "k is 0": (with_row(0, 4, 0), "'a' has 0 entries"),
    "k is negative": (with_row(0, 4, -2), "'a' has -2 entries"),
    "k is a bool": (with_row(0, 4, True), "'a' has True entries"),
    "k is a fraction": (with_row(0, 4, 2.0), "'a' has 2.0 entries"),
    "k is a text": (with_row(0, 4, "2"), "'a' has '2' entries"),
    "k > n": (with_row(1, 4, 11), "'b' has 11 entries"),
    "t is a bool": (with_row(1, 5, False), "'b'"),
    "t < k": (with_row(0, 5, 1), "'a' has 1 tokens"),
    "t in bits": (with_row(1, 5, 2), "'b' has 2 tokens"),
    "t is huge": (with_row(0, 5, 2**62), r"'gaps' must be U16\[4611686018427387904\]"),
    "k is another": (with_row(1, 4, 3), "must be"),
    "code is unknown": (with_row(0, 3, "zebra"), "'a' has code 'zebra'"),
    "code is null": (with_row(0, 3, None), "'a' has code None"),
    "code all for a part": (with_row(0, 3, "all"), "'a' has code 'all'"),
    "code bits for all": (with_row(2, 3, "bits"), "'c' has code 'bits'"),
    "gaps named bits": (with_row(0, 3, "bits"), "'a' has 2 tokens"),
    "no print": (with_row(0, 6, None), "'a' has a print"),
    "print of 15 digits": (with_row(0, 7, "0" * 15), "'a' has a print"),
    "print in capitals": (with_row(0, 7, "ABCDEF0123456789"), "'a' has a print"),
    "print with a line end": (with_row(0, 7, "0" * 16 + "\n"), "'a' has a print"),
    "wrong result print": (with_row(0, 7, "0" * 16), "'a': its values do not match its result_print"),
    "wrong base print": (with_row(2, 6, "0" * 16), "'c': its values do not match its base_print"),
    "unsafe dtype of a tensor": (with_header(lambda head: head["gaps"].update(dtype="I16")), "'gaps' must be U16"),
    "shape of a tensor": (with_header(lambda head: head["gaps"].update(shape=[2, 1])), "'gaps' must be U16"),
    "wrong length": (with_header(lambda head: head["gaps"].update(shape=[3])), "'gaps' takes 4 bytes"),
    "offsets backwards": (with_header(lambda head: head["gaps"]["data_offsets"].reverse()), "'gaps'"),
    "offset of a bool": (with_header(lambda head: head["gaps"].update(data_offsets=[False, 4])), "impossible"),
    "overlap": (with_header(lambda head: head["bits"].update(data_offsets=[0, 2])), "overlaps another"),
    "hole": (with_tensor("dense/x", "F32", bytes(4), hole=4), "leaves a hole"),
    "extra tensor": (with_tensor("zebra", "F32", bytes(4)), "'zebra' is not allowed"),
    "extra values": (with_tensor("values.F16", "F32", bytes(4)), "'values.F16' is not allowed"),
    "dense without a name": (with_tensor("dense/", "F32", bytes(4)), "'dense/' is not allowed"),
    "empty dense": (with_tensor("dense/x", "F32", b""), "'dense/x' is not allowed"),
    "NaN in dense": (with_tensor("dense/x", "F32", NAN), "'dense/x' holds NaN"),
    "missing gaps": (without_tensor("gaps"), "'gaps' must be.*holds nothing"),
    "missing values": (without_tensor("values.BF16"), "'values.BF16' must be"),
    "missing half of the base": (without_tensor("base.F32"), "'base.F32' must be"),
    "NaN value": (with_payload("values.F32", 4, NAN), "'values.F32' holds NaN"),
    "infinite base": (with_payload("base.BF16", 0, b"\x80\x7f"), "'base.BF16' holds NaN"),
    "changed value": (with_payload("values.F32", 0, b"\x01"), "'a': its values do not match"),
    "token without end": (with_payload("gaps", 2, b"\xff\xff"), "'a': its gaps hold 1 indices, not 2"),
    "index too large": (with_payload("gaps", 2, b"\xff\x00"), "'a': index 259 lies outside its 100"),
    "padding bit": (with_payload("bits", 0, b"\x02\x04"), "'b': a padding bit is set"),
    "one bit more": (with_payload("bits", 0, b"\xff"), "'b': its bits hold"),
}
