"""A patch file taken apart, so that each part can be made hostile, and put together again with or without repair."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch

from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.patch.format.declaration import KEY
from graft.patch.format.integrity import DIGITS, hash_table
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.tensors.prints import print_of
from tests.checkpoints import make_patch, sample_patch
from tests.patch.format.corruptions import PATCH

Json = Any


@dataclass
class Parts:
    """The tensors of a file, the table and origin that its metadata hold, and how the text is spoilt in the end.

    Attributes:
        entries: header name -> {"dtype", "shape", "data_offsets"}.
        meta: the JSON of the one metadata key.
        payload: tensor name -> bytes.
        edits: [old, new] replacements in the metadata's text.
        header_edits: likewise in the whole header's.
    """

    entries: dict[str, Json]
    meta: Json
    payload: dict[str, bytes]
    edits: list[tuple[str, str]] = field(default_factory=list)
    header_edits: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, data: bytes) -> Parts:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        meta = json.loads(header.pop("__metadata__")[KEY])
        places = {name: entry["data_offsets"] for name, entry in header.items()}
        body = data[8 + length :]
        return cls(header, meta, {name: body[start:stop] for name, (start, stop) in places.items()})

    def copy(self) -> Parts:
        return copy.deepcopy(self)

    @property
    def rows(self) -> list[Json]:
        """The table, where it is one still."""
        rows = self.meta.get("tensors") if isinstance(self.meta, dict) else None
        return rows if isinstance(rows, list) else []

    def join(self) -> bytes:
        text = json.dumps(self.meta)
        for old, new in self.edits:
            text = text.replace(old, new, 1)
        head = json.dumps({"__metadata__": {KEY: text}, **self.entries})
        for old, new in self.header_edits:
            head = head.replace(old, new, 1)
        body = head.encode("utf-8", "surrogatepass")
        return len(body).to_bytes(8, "little") + body + b"".join(self.payload.values())

    def repair(self) -> None:
        """Make lengths and offsets agree with the bytes again, so that what lies deeper is reached."""
        start = 0
        for name, data in self.payload.items():
            entry = self.entries.get(name)
            if isinstance(entry, dict) and str(entry.get("dtype")) in ITEM_SIZES:
                width = ITEM_SIZES[entry["dtype"]]
                data = self.payload[name] = data[: len(data) // width * width]
                if not name.startswith("dense/"):
                    entry["shape"] = [len(data) // width]
                entry["data_offsets"] = [start, start + len(data)]
            start += len(data)

    def reprint(self) -> None:
        """Make the rows' prints agree with the values, as a liar would."""
        places = dict.fromkeys(self.payload, 0)
        for row in self.rows:
            if not (isinstance(row, list) and len(row) == 8 and str(row[1]) in ITEM_SIZES and type(row[4]) is int):
                continue
            for key, place in (("base", 6), ("values", 7)):
                source, size = f"{key}.{row[1]}", min(max(row[4], 0), 2**20) * ITEM_SIZES[row[1]]
                if source in places:
                    data = self.payload[source][places[source] : places[source] + size]
                    places[source] += size
                    row[place] = print_of(torch.tensor(list(data), dtype=torch.uint8))

    def reseal(self) -> None:
        """Make the hashes agree with the bytes and the table, so that what lies deeper is reached."""
        if isinstance(self.meta, dict):
            self.meta["content"] = {name: _hash_of(data) for name, data in self.payload.items()}
            self.meta["table"] = hash_table(self.meta.get("tensors"))


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _wide_mask() -> Mask:
    specs = {"a": TensorSpec("BF16", (64, 9)), "b": TensorSpec("F32", (300_000,)), "c": TensorSpec("F32", ())}
    return Mask.of(specs, {"a": range(0, 576, 3), "b": [0, 65_535, 131_071, 299_999], "c": [0]})


def _sparse_patch() -> bytes:
    base = {"w": torch.zeros(200_000), "x": torch.zeros(30, dtype=torch.float64)}
    return patch_bytes(make_patch(base, {"w": {0: 1.0, 65_535: 2.0, 65_536: 3.0, 199_999: 4.0}, "x": {7: 1e300}}))


SEEDS: tuple[Parts, ...] = tuple(
    Parts.of(data)
    for data in (
        patch_bytes(PATCH),
        patch_bytes(sample_patch()),
        _sparse_patch(),
        patch_bytes(_wide_mask()),
        patch_bytes(Mask.full({"a": TensorSpec("F32", (4, 2)), "b": TensorSpec("I64", (3,))})),
    )
)
