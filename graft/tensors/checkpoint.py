"""A checkpoint on disk, single or sharded safetensors, read lazily tensor by tensor."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.header import StoredTensor, quote, read_header
from graft.files.tensor_spec import TensorSpec
from graft.files.weight_index import INDEX, find_weights, read_index
from graft.tensors.architecture import Architecture, is_buffer_name, quantization_of, read_architecture
from graft.tensors.dtypes import same_bits
from graft.tensors.inventory import Inventory, take_inventory
from graft.tensors.relayout import Relaid
from graft.tensors.tied_names import TiedNames

_WEIGHT_FILE = re.compile(r".*\.(safetensors|bin|h5|msgpack|onnx|onnx_data|tflite|ot|pt|pth|ckpt|gguf)|.+\.index\.json")


class Checkpoint:
    """The tensors of a model folder or of one safetensors file.

    Only headers are read on opening; `read` maps one tensor from disk, and pages that were mapped cost no
    anonymous memory. Where there is an index, it alone says which shard holds what: stale shards are ignored.

    Attributes:
        path: the folder or file that was opened.
        files: tensor name -> the file that holds it.
        names: all tensor names in ascending order.
    """

    def __init__(self, path: Path, files: Mapping[str, Path], stored: Mapping[str, StoredTensor]) -> None:
        self.path = path
        self.files = files
        self.stored = stored
        self.names = tuple(sorted(files))
        self.relaid: dict[str, Relaid] = {}  # further tensors, made of the stored ones
        self._handles: dict[Path, Any] = {}
        self._opening = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a model folder or a single safetensors file.

        Raises:
            CheckpointError: nothing there, no safetensors in it, quantized, truncated, or an index that lies.
        """
        if not path.exists():
            raise CheckpointError(f"{path}: no such checkpoint")
        try:
            str(path).encode()
        except UnicodeEncodeError as error:  # at which safetensors ends the process
            raise CheckpointError(f"{str(path)!a}: a name that is no UTF-8, which safetensors cannot read") from error
        if path.is_file():
            return cls._of_file(path, path)
        method = quantization_of(path)
        if method is not None:
            raise CheckpointError(f"{path}: quantized ({method}); use the unquantized checkpoint it was made from")
        weights = find_weights(path)
        checkpoint = cls._of_index(path) if weights.name == INDEX else cls._of_file(path, weights)
        checkpoint.refuse_incomplete()
        return checkpoint

    @classmethod
    def _of_file(cls, path: Path, file: Path) -> Checkpoint:
        stored = read_header(file).tensors
        if not stored:
            raise CheckpointError(f"{file}: holds no tensors")
        return cls(path, dict.fromkeys(stored, file), stored)

    @classmethod
    def _of_index(cls, folder: Path) -> Checkpoint:
        shard_of = read_index(folder / INDEX)
        headers = {shard: read_header(folder / shard) for shard in sorted(set(shard_of.values()))}
        stored = {}
        for name, shard in shard_of.items():
            if name not in headers[shard].tensors:
                raise CheckpointError(f"{folder / shard}: the index promises {name!r}, which is not in it")
            stored[name] = headers[shard].tensors[name]
        for shard, header in headers.items():  # others read all of a shard, and would take either
            for name in header.tensors:
                if shard_of.get(name) != shard:
                    location = f"in {shard_of[name]}" if name in shard_of else "nowhere"
                    raise CheckpointError(f"{folder / shard}: holds {quote(name)}, which the index has {location}")
        return cls(folder, {name: folder / shard for name, shard in shard_of.items()}, stored)

    def refuse_incomplete(self) -> None:
        """Refuse weights that transformers would fill at random, or drop, without a word.

        Raises:
            CheckpointError: a tensor is missing, is no such model's, or has another size; the first is named.
        """
        if self.inventory is None:
            return
        for names, fact in (
            (self.inventory.missing, "lacks the tensor {}, which its config.json asks for"),
            (self.inventory.foreign, "holds the tensor {}, which no model of its config.json has"),
        ):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise CheckpointError(f"{self.path}: {fact.format(quote(names[0]) + more)}")
        for name, here, there in self.inventory.resized:
            raise CheckpointError(
                f"{self.path}: tensor {quote(name)} is {list(here)}, its config.json asks for {list(there)}"
            )

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor, from the header alone."""
        return self.relaid[name].spec if name in self.relaid else self.stored[name].spec

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, mapped from disk on the CPU; treat it as read-only."""
        if name in self.relaid:
            return self.relaid[name].read(self)
        tensor: torch.Tensor = self._handle_of(self.files[name]).get_tensor(name)
        return tensor

    def _handle_of(self, file: Path) -> Any:
        with self._opening:  # several threads may read
            if file not in self._handles:
                from safetensors import safe_open

                # kept open on purpose: the mapping is shared by all tensors of the shard
                self._handles[file] = safe_open(file, framework="pt", device="cpu")
            return self._handles[file]

    def n_bytes(self, name: str) -> int:
        """Return the number of bytes that a tensor takes on disk."""
        return sum(self.stored[source].stop - self.stored[source].start for source in self._sources_of(name))

    def prefetch(self, name: str) -> None:
        """Ask the system to read a tensor's bytes ahead, where the system offers that."""
        for source in self._sources_of(name) if hasattr(os, "posix_fadvise") else ():
            stored = self.stored[source]
            with self.files[source].open("rb") as file:
                os.posix_fadvise(file.fileno(), stored.start, stored.stop - stored.start, os.POSIX_FADV_WILLNEED)

    def _sources_of(self, name: str) -> tuple[str, ...]:
        return tuple(self.relaid[name].sources) if name in self.relaid else (name,)

    def locate(self, name: str, indices: torch.Tensor) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        """Locate (k,) flat indices of a tensor in those that the files list, as `Relaid.locate`; most are listed."""
        if name in self.relaid:
            return self.relaid[name].locate(indices)
        return [(name, torch.arange(len(indices)), indices)]

    @cached_property
    def architecture(self) -> Architecture | None:
        """Its architecture, by config.json; None for a bare file or an unknown architecture."""
        return read_architecture(self.path) if self.path.is_dir() else None

    @cached_property
    def inventory(self) -> Inventory | None:
        """Its tensors compared with its architecture; None where that is not known."""
        if self.architecture is None:
            return None
        return take_inventory({name: self.stored[name].spec.shape for name in self.names}, self.architecture)

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Listed tensors that no model of its architecture uses."""
        return frozenset(self.inventory.left_out) if self.inventory else frozenset()

    def unused_files(self) -> list[Path]:
        """Return files of weights in the folder that are not this checkpoint's: stale shards, other formats."""
        if not self.path.is_dir():
            return []
        used = {*self.files.values(), self.path / INDEX}
        return sorted(file for file in self.path.iterdir() if file not in used and is_weight_file(file.name))

    @property
    def dtype(self) -> str:
        """The safetensors dtype of most of its weights, whatever the config says."""
        elements = dict.fromkeys((self.stored[name].spec.dtype for name in self.parameters), 0)
        for name in self.parameters:
            elements[self.stored[name].spec.dtype] += self.stored[name].spec.numel
        return max(elements, key=lambda dtype: (elements[dtype], dtype), default="F32")

    @cached_property
    def tied(self) -> TiedNames:
        """Groups of names that share one storage in the model, whether or not the files list all of them.

        Raises:
            CheckpointError: the config ties two tensors that the files hold with different values.
        """
        groups = self.architecture.tied if self.architecture else TiedNames()
        for group in groups:
            listed = sorted(group & self.files.keys())
            for other in listed[1:]:
                if not same_bits(self.read(listed[0]), self.read(other)):
                    raise CheckpointError(f"{self.path}: {listed[0]!r} and {other!r} are tied but differ")
        return groups

    @cached_property
    def aliases(self) -> frozenset[str]:
        """Listed names that only repeat a tied tensor; the first name of each group stands for it."""
        return self.tied.repeats(self.files)

    @cached_property
    def buffers(self) -> frozenset[str]:
        """Listed tensors that are not parameters: counters, statistics, anything that is not floating point."""
        known = self.architecture.buffers if self.architecture else frozenset()
        return frozenset(
            name for name in self.names if name in known or is_buffer_name(name) or not self.stored[name].spec.is_float
        )

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the architecture's parameters in ascending order, each tied group once."""
        without = self.buffers | self.aliases | self.left_out
        return tuple(name for name in self.names if name not in without)

    @cached_property
    def n_parameters(self) -> int:
        """Number of weights N: tied ones once, buffers not. Densities are shares of this."""
        return sum(self.stored[name].spec.numel for name in self.parameters)


def is_weight_file(name: str) -> bool:
    """Return whether a file of that name holds a model's weights, in whatever format, or an index of them."""
    return _WEIGHT_FILE.fullmatch(name) is not None
