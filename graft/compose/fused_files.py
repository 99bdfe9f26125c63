"""A checkpoint written tensor by tensor into the places that another one's files give them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from graft.files.header import read_header
from graft.files.tensor_spec import ITEM_SIZES
from graft.patch.model_folder import Companions, copy_companions
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import byte_view

_BLOCK = 1 << 24  # bytes


class FusedFiles:
    """The files of a new checkpoint with the base's shards, index, headers and companions.

    Args:
        base: the checkpoint whose layout is taken.
        folder: an empty folder.
    """

    def __init__(self, base: Checkpoint, folder: Path) -> None:
        self._base, self._folder = base, folder
        self._handles: dict[str, int] = {}

    def __enter__(self) -> FusedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def start(self, fused: Collection[str], companions: Companions) -> None:
        """Headers and companions, and every tensor of the base that is not going to be `put`."""
        copy_companions(companions, self._base.path, self._folder)
        written = {place for name in fused for place in self._places(name)}
        for file in sorted(set(self._base.files.values())):
            header = read_header(file)
            out = os.open(self._folder / file.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            self._handles[file.name] = out
            with file.open("rb") as source:
                _copy(source.fileno(), out, 0, header.size)
                os.truncate(out, file.stat().st_size)
                for name, stored in header.tensors.items():
                    if name not in written or self._base.files.get(name) != file:
                        _copy(source.fileno(), out, stored.start, stored.stop)

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """Write (n,) values of the tensor's dtype from its `start`-th element on, under every name tied to it.

        Several threads may.
        """
        for place in self._places(name):
            stored = self._base.stored[place]
            _write(
                self._handles[self._base.files[place].name],
                byte_view(values),
                stored.start + start * ITEM_SIZES[stored.spec.dtype],
            )

    def _places(self, name: str) -> list[str]:
        group = next((group for group in self._base.tied if name in group), frozenset((name,)))
        return sorted(group & self._base.files.keys())


def _copy(source: int, out: int, start: int, stop: int) -> None:
    """The bytes from start to stop, to the same place."""
    while start < stop:
        data = os.pread(source, min(_BLOCK, stop - start), start)
        _write(out, np.frombuffer(data, np.uint8), start)
        start += len(data)


def _write(out: int, data: npt.NDArray[np.uint8], start: int) -> None:
    """All of the bytes, from that place of the file on."""
    while len(data):
        n = os.pwrite(out, data.data, start)
        data, start = data[n:], start + n
