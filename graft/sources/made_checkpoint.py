"""A checkpoint whose tensors are made when they are read: an adapter's on its base, or a live model's.

It stands where a checkpoint on disk stands. Its `path` is a folder with what else a model folder holds, config.json and
tokenizer, so that whoever asks for labels, tokens or the architecture asks as always; the folder lasts as long as the
checkpoint.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graft.files.header import StoredTensor
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.tensor_stream import Planned
from graft.tensors.vocabulary import has_tokenizer, is_of_tokenizer


class MadeCheckpoint(Checkpoint):
    """Tensors by name, each made anew whenever it is read.

    Attributes:
        notes: sentences for a person about where the tensors come from.

    Args:
        path: the folder that stands in for a model folder.
        tensors: name -> dtype, shape and the function that makes the tensor, on the CPU.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Planned]) -> None:
        stored = {name: StoredTensor(plan.spec, 0, plan.spec.n_bytes) for name, plan in tensors.items()}
        super().__init__(path, dict.fromkeys(tensors, path), stored)
        self._tensors = tensors
        self.notes: tuple[str, ...] = ()

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor on the CPU; treat it as read-only."""
        return self.relaid[name].read(self) if name in self.relaid else self._tensors[name].make()

    def prefetch(self, name: str) -> None:
        """Do nothing: there is no file to read ahead."""

    def unused_files(self) -> list[Path]:
        """Return no file: the folder holds no weights."""
        return []

    def owns_folder(self) -> None:
        """Remove the folder, which `make_folder` made, when the checkpoint is no longer used."""
        weakref.finalize(self, shutil.rmtree, self.path.parent, ignore_errors=True)


def folder_of(model: Path | Checkpoint) -> Path:
    """Return the folder with a model's config and tokenizer."""
    return model.path if isinstance(model, Checkpoint) else model


def make_folder(name: str, config: Mapping[str, Any]) -> Path:
    """Make a temporary folder of that name with a config.json, unless the config is empty."""
    folder = Path(tempfile.mkdtemp(prefix="graft-")) / name
    folder.mkdir()
    if config:
        write_config(folder, config)
    return folder


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a config.json."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def link_tokenizer(source: Path, folder: Path) -> None:
    """Link the files of a folder that a tokenizer may be made of, where the target has none of that name.

    Of a target that has a tokenizer it stays the tokenizer: files of two may contradict each other, such as a template
    of its own beside one within the other's config.
    """
    is_complete = has_tokenizer(folder)
    for file in source.iterdir() if source.is_dir() else ():
        is_of_model = file.name.startswith(("config.json", "adapter_", "README", "training_args", "model"))
        is_of_text = is_of_tokenizer(file.name)
        is_wanted = not is_complete if is_of_text else file.suffix in (".json", ".txt", ".jinja")
        if is_wanted and not is_of_model and file.is_file() and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
