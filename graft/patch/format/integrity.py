"""Integrity of a file by the hashes that it holds: of the bytes of each tensor, and of the table that explains them.

`content` is {tensor name: hash} for every tensor of the file and no other, `table` the hash of the table's canonical
JSON (contract, section 4). They guard against accident, not malice. A file of an older version holds neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.header import Header, StoredTensor, quote
from graft.tensors.dtypes import byte_view

AGREE = "content hashes agree"
TABLE_AGREES = "table hash agrees; the content was not fetched"
UNSEALED = "none: written by an older version"
DIGITS = 32  # of SHA-256's 64 hex digits
_CHUNK = 2**20  # bytes read at once where nothing but their hash is wanted
_HASH = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


def canonical_json(value: object) -> str:
    """Return the canonical text of a JSON value, which is written and hashed.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_table(table: object) -> str:
    """Return the first 32 hex digits of SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(table).encode()).hexdigest()[:DIGITS]


def make_seal(tensors: Mapping[str, torch.Tensor], table: object) -> dict[str, object]:
    """Make the keys `content` and `table` of a file's JSON.

    Args:
        tensors: all that the file holds, by the names that it gives them.
        table: the JSON that explains them.
    """
    content = {name: hashlib.sha256(byte_view(tensor).data).hexdigest()[:DIGITS] for name, tensor in tensors.items()}
    return {"content": content, "table": hash_table(table)}


@dataclass(frozen=True)
class Seal:
    """A file's hashes of its own bytes; its table was found to agree.

    Attributes:
        content: tensor name -> hash, of each tensor of the file; None in a file of an older version.
    """

    content: Mapping[str, str] | None = None

    @classmethod
    def read(cls, meta: Mapping[str, Any], table: object, names: Collection[str], where: str) -> Seal:
        """Check the hash of the table, and that each tensor has one.

        Args:
            meta: the file's JSON.
            table: the JSON that explains the tensors, as the file holds it.
            names: of the file's tensors.
            where: the file's name for an error.

        Raises:
            CheckpointError: one of the two keys without the other, a hash that is none, a tensor without a hash or a
                hash without a tensor, or another table.
        """
        if "content" not in meta and "table" not in meta:
            return cls()
        content = meta.get("content")
        if not isinstance(content, dict) or not _is_hash(meta.get("table")):
            raise CheckpointError(f"{where}: its 'content' and 'table' are not a table of hashes and a hash")
        for name in sorted(content.keys() ^ set(names)):
            fact = "is hashed, but not in the file" if name in content else "is not among its hashes"
            raise CheckpointError(f"{where}: tensor {quote(name)} {fact}")
        for name, text in content.items():
            if not _is_hash(text):
                raise CheckpointError(f"{where}: tensor {quote(name)} has a hash that is not {DIGITS} hex digits")
        if hash_table(table) != meta["table"]:
            raise CheckpointError(f"{where}: its table of tensors does not match its hash: the file is damaged")
        return cls(content)

    @property
    def verdict(self) -> str:
        """Outcome for a person, once the tensors were read: their hashes agree, or there are none."""
        return UNSEALED if self.content is None else AGREE

    @property
    def table_verdict(self) -> str:
        """Outcome for a person, where only the header was read."""
        return UNSEALED if self.content is None else TABLE_AGREES

    def read_tensor(self, file: Path, name: str, stored: StoredTensor) -> bytearray:
        """Read the bytes of a tensor, and compare them with its hash.

        Raises:
            CheckpointError: they do not match it, or the file cannot be read or was cut short.
        """
        data = bytearray(stored.stop - stored.start)
        digest = hashlib.sha256()
        with memoryview(data) as view:
            for start, chunk in _stream(file, stored):
                view[start : start + len(chunk)] = chunk
                digest.update(chunk)
        self._compare(file, name, digest.hexdigest())
        return data

    def check(self, file: Path, header: Header) -> None:
        """Compare every tensor of a file with its hash; memory holds one chunk.

        Raises:
            CheckpointError: as `read_tensor`.
        """
        for name, stored in header.tensors.items() if self.content is not None else ():
            digest = hashlib.sha256()
            for _, chunk in _stream(file, stored):
                digest.update(chunk)
            self._compare(file, name, digest.hexdigest())

    def _compare(self, file: Path, name: str, digest: str) -> None:
        if self.content is not None and self.content[name] != digest[:DIGITS]:
            raise CheckpointError(
                f"{file}: tensor {quote(name)}: its bytes do not match their hash: the file is damaged"
            )


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _stream(file: Path, stored: StoredTensor) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the tensor, bytes) of a tensor's chunks.

    Raises:
        CheckpointError: the file cannot be read, or was cut short since its header was.
    """
    size = stored.stop - stored.start
    try:
        with file.open("rb") as stream:
            stream.seek(stored.start)
            for start in range(0, size, _CHUNK):
                chunk = stream.read(min(_CHUNK, size - start))
                if len(chunk) != min(_CHUNK, size - start):
                    raise CheckpointError(f"{file}: cut short while it was read")
                yield start, chunk
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
