"""Adapter folder of PEFT: adapter_config.json beside adapter_model.safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.header import parse_json
from graft.files.weight_index import ADAPTER, INDEX, SINGLE
from graft.sources.adapters.imported_weights import Edit, replace_whole
from graft.tensors.checkpoint import Checkpoint

CONFIG = ADAPTER
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # that PEFT puts before the live model's names
MAX_CONFIG = 10_000_000  # bytes
HEADS = ["classifier", "score"]  # which PEFT trains whole for a classification task, asked or not
Reader = Callable[[], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Adapter:
    """Opened adapter, whose tensors are read one at a time.

    Attributes:
        where: its folder, or what it is, for errors.
        config: adapter_config.json.
        stored: the tensors of adapter_model.safetensors, headers checked.
    """

    where: str
    config: Mapping[str, Any]
    stored: Checkpoint

    @property
    def kind(self) -> str:
        """PEFT's name of its type, such as "LORA"."""
        return str(self.config.get("peft_type"))

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """Keys without PEFT's prefix (module and ending) -> the keys in the file."""
        return {key.removeprefix(PREFIX): key for key in self.stored.names}

    def groups(self, endings: tuple[str, ...]) -> dict[str, dict[str, str]]:
        """Map each module to {ending: key} for the keys with one of the endings."""
        groups: dict[str, dict[str, str]] = {}
        for name, key in self.keys.items():
            for ending in endings:
                if name.endswith(f".{ending}"):
                    groups.setdefault(name.removesuffix(f".{ending}"), {})[ending] = key
        return groups


@dataclass(frozen=True, eq=False)
class OtherTensors:
    """Tensors of an adapter beside its factors or differences.

    Attributes:
        edits: tensors that PEFT loads into the base's own: biases, embeddings saved along.
        whole: those of `modules_to_save`, which PEFT keeps in modules of their own.
    """

    edits: Mapping[str, Edit]
    whole: Mapping[str, Reader]


def read_others(adapter: Adapter, keys: Mapping[str, str]) -> OtherTensors:
    """Sort the tensors that were trained or saved whole by what PEFT does with them.

    Args:
        adapter: the adapter.
        keys: the live model's name -> the key in the file.

    Raises:
        CheckpointError: two keys stand for one tensor.
    """
    saved = adapter.config.get("modules_to_save") or []
    saved = [saved] if isinstance(saved, str) else [str(name) for name in saved]
    if adapter.config.get("task_type") in ("SEQ_CLS", "TOKEN_CLS"):
        saved += HEADS
    edits: dict[str, Edit] = {}
    whole: dict[str, Reader] = {}
    for name, key in keys.items():
        read = partial(adapter.stored.read, key)
        target = name.replace(".base_layer.", ".")  # what PEFT calls an adapted module's own bias or embedding
        if target in edits or target in whole:
            raise CheckpointError(f"{adapter.where}: two tensors for {target!r}")
        if target == name and any(module.endswith(ending) for module in _modules_above(name) for ending in saved):
            whole[name] = read
        else:
            edits[target] = replace_whole(target, read)
    return OtherTensors(edits, whole)


def _modules_above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no weights of a model."""
    return (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in (INDEX, SINGLE))


def open_adapter(path: Path) -> Adapter:
    """Open an adapter of any PEFT type: its folder, or one of the two files in it.

    Raises:
        CheckpointError: not an adapter, or saved as a pickle only.
    """
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: holds no {WEIGHTS}; pickles are not read, save it anew with a present PEFT")
    stored = Checkpoint.open(folder / WEIGHTS)
    return Adapter(str(folder), config, stored)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise CheckpointError(f"{path}: too large for an adapter's config")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); an adapter folder holds it") from error
