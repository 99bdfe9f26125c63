"""Writer of a checkpoint, tensor by tensor, in the file layout of another one."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from graft.files.header import read_header
from graft.files.tensor_spec import ITEM_SIZES
from graft.patch.model_folder import SideFiles, copy_side_files
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import byte_view

_BLOCK = 1 << 24  # bytes


class CheckpointWriter:
    """The files of a new checkpoint, with the base's shards, index, headers and side_files.

    Args:
        base: the checkpoint whose layout is taken.
        folder: an empty folder.
    """

    def __init__(self, base: Checkpoint, folder: Path) -> None:
        self._base, self._folder = base, folder
        self._handles: dict[str, int] = {}

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def start(self, fused: Collection[str], side_files: SideFiles) -> None:
        """Write headers and side_files, and every tensor of the base that is not going to be `put`."""
        copy_side_files(side_files, self._base.path, self._folder)
        later = {listed for name in fused for listed in self._base.tied.listed(name, self._base.files)}
        for file in sorted(set(self._base.files.values())):
            header = read_header(file)
            out = os.open(self._folder / file.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            self._handles[file.name] = out
            with file.open("rb") as source:
                _copy(source.fileno(), out, 0, header.size)
                os.truncate(out, file.stat().st_size)
                for name, stored in header.tensors.items():
                    if name not in later or self._base.files.get(name) != file:
                        _copy(source.fileno(), out, stored.start, stored.stop)

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """Write (n,) values of the tensor's dtype from its `start`-th element on, under every name tied to it.

        Several threads may call it at once.
        """
        for listed in self._base.tied.listed(name, self._base.files):
            stored = self._base.stored[listed]
            _write(
                self._handles[self._base.files[listed].name],
                byte_view(values),
                stored.start + start * ITEM_SIZES[stored.spec.dtype],
            )


def _copy(source: int, out: int, start: int, stop: int) -> None:
    """Copy the bytes from start to stop to the same offset."""
    while start < stop:
        data = os.pread(source, min(_BLOCK, stop - start), start)
        _write(out, np.frombuffer(data, np.uint8), start)
        start += len(data)


def _write(out: int, data: npt.NDArray[np.uint8], start: int) -> None:
    """Write all of the bytes into the file from offset `start` on."""
    while len(data):
        n = os.pwrite(out, data.data, start)
        data, start = data[n:], start + n
