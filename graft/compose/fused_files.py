"""A checkpoint written tensor by tensor into the places that another one's files give them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import torch

from graft.patch.merge import copy_companions
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import ITEM_SIZES, to_bytes
from graft.tensors.header import read_header

_BLOCK = 1 << 24  # bytes


class FusedFiles:
    """The files of a new checkpoint with the base's shards, index, headers and companions.

    Args:
        base: the checkpoint whose layout is taken.
        folder: an empty folder.
    """

    def __init__(self, base: Checkpoint, folder: Path) -> None:
        self._base, self._folder = base, folder
        self._handles: dict[str, BinaryIO] = {}

    def __enter__(self) -> FusedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            handle.close()

    def start(self, fused: Collection[str]) -> None:
        """Headers and companions, and every tensor of the base that is not going to be `put`."""
        copy_companions(self._base, self._folder)
        written = {place for name in fused for place in self._places(name)}
        for file in sorted(set(self._base.files.values())):
            header = read_header(file)
            with file.open("rb") as source, (self._folder / file.name).open("wb") as out:
                _copy(source.fileno(), out.fileno(), 0, header.size)
                out.truncate(file.stat().st_size)
                for name, stored in header.tensors.items():
                    if name not in written or self._base.files.get(name) != file:
                        _copy(source.fileno(), out.fileno(), stored.start, stored.stop)

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """Write (n,) values of the tensor's dtype from its `start`-th element on, under every name tied to it."""
        data = to_bytes(values)
        for place in self._places(name):
            stored = self._base.stored[place]
            out = self._handle(self._base.files[place].name)
            out.seek(stored.start + start * ITEM_SIZES[stored.spec.dtype])
            out.write(data)

    def _handle(self, file: str) -> BinaryIO:
        if file not in self._handles:
            self._handles[file] = (self._folder / file).open("r+b", buffering=0)
        return self._handles[file]

    def _places(self, name: str) -> list[str]:
        group = next((group for group in self._base.tied if name in group), frozenset((name,)))
        return sorted(group & self._base.files.keys())


def _copy(source: int, out: int, start: int, stop: int) -> None:
    """The bytes from start to stop, to the same place."""

    while start < stop:
        data = os.pread(source, min(_BLOCK, stop - start), start)
        os.pwrite(out, data, start)
        start += len(data)
