"""The header of a safetensors file: read and checked before anything else is believed, and written.

Layout (safetensors format): 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes
without holes. A file from a stranger is bad input until checked: lengths are compared with the file's size
before anything is allocated.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from graft.errors import CheckpointError
from graft.files.inputs import open_input
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec

MAX_HEADER = 100_000_000  # bytes; the limit that the safetensors library sets
MAX_QUOTED = 150  # characters of a name or value in a message
ALIGNMENT = 8  # the tensors' bytes start at a multiple of it, as the safetensors library writes them
MAX_DEPTH = 64  # of nested JSON: what reads it later may recurse, and must not run out of stack


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its spec, and where its bytes lie, counted from the start of the file."""

    spec: TensorSpec
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The declarations of a safetensors file."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    size: int  # of the header in bytes, its length field included


def read_header(path: Path, limit: int = MAX_HEADER) -> Header:
    """Read and check the header of one safetensors file.

    Args:
        path: the file.
        limit: the most bytes of JSON that are parsed.

    Raises:
        CheckpointError: missing, truncated, not safetensors, or a header that contradicts the file's size.
    """
    try:
        with open_input(path) as file:
            total = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(limit, total - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or cut short ({total:,} bytes)")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_header(text, total, str(path))


def parse_header(text: bytes, total: int, where: str) -> Header:
    """Check a header's JSON against the size of the whole file.

    Args:
        text: the JSON, without the length field.
        total: bytes of the whole file.
        where: the file's name for an error.

    Raises:
        CheckpointError: bad JSON, duplicate or impossible entries, holes, overlaps, or a truncated file.
    """
    value = parse_json(text, where)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(item, str) for item in metadata.values()):
        raise CheckpointError(f"{where}: the header's metadata are not texts")
    data_start = 8 + len(text)
    tensors = {name: _read_entry(name, entry, data_start, where) for name, entry in value.items()}
    end = data_start
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != end:
            raise CheckpointError(f"{where}: tensor {quote(name)} overlaps another or leaves a hole")
        end = stored.stop
    if end != total:
        state = "cut short" if end > total else "longer than it declares"
        raise CheckpointError(f"{where}: {state} ({total:,} bytes, the header declares {end:,})")
    return Header(tensors, metadata, data_start)


def format_header(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Return the first bytes of a file, length field included, for tensors that follow in the order given."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, spec in tensors.items():
        stop = start + spec.n_bytes
        entries[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(math.ceil(len(text) / ALIGNMENT) * ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def parse_json(text: bytes | str, where: str) -> dict[str, Any]:
    """Parse an untrusted JSON object, refusing duplicate keys, NaN, lone surrogates and deep nesting.

    Raises:
        CheckpointError: anything but one JSON object.
    """
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8")  # json itself would guess UTF-16 too
        value = json.loads(
            plain,
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_parse_finite,
        )
        check_nodes(value)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: the header is not valid JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: the header is not a JSON object")
    return value


def check_nodes(value: Any) -> int:
    """Return how many keys and values parsed JSON holds; refuse deep nesting, and texts with halves of characters.

    Raises:
        ValueError: nested more than `MAX_DEPTH` levels deep, or a lone surrogate, which has no UTF-8.
    """
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        "".join(item for item in level if isinstance(item, str)).encode()
        level = [child for item in level for child in _children(item)]
    if level:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return count


def quote(value: object) -> str:
    """Quote an untrusted value for a message of one line: its repr, which escapes control characters, clipped."""
    return clip_text(repr(value))


def clip_text(text: str) -> str:
    """Return the start of a text that may be long."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def _read_entry(name: str, entry: Any, data_start: int, where: str) -> StoredTensor:
    def refusal(fact: str) -> CheckpointError:
        return CheckpointError(f"{where}: tensor {quote(name)} {clip_text(fact)}")

    if not isinstance(entry, dict):
        raise refusal("is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise refusal(f"has a dtype that is not supported: {dtype!r}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise refusal("has an impossible shape or place")
    spec = TensorSpec(dtype, tuple(shape))
    if offsets[1] - offsets[0] != spec.n_bytes:
        raise refusal(f"takes {offsets[1] - offsets[0]} bytes, but {spec} needs {spec.n_bytes}")
    return StoredTensor(spec, data_start + offsets[0], data_start + offsets[1])


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    """Return whether a value is a list of counts, few enough to be a shape."""
    is_list = isinstance(value, list) and len(value) <= 64
    return is_list and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return itertools.chain(value, value.values())
    return value if isinstance(value, list) else ()


def _parse_finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{clip_text(text)} is out of range")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
