"""Side files: those beside a model's weights, and the choice of those that a changed copy of the model takes along.

Weights of other formats and stale shards at the root hold the base's values, and would contradict the merged ones; so
do exports of the whole model and a trainer's snapshots in folders of their own. Other folders hold parts that the model
needs, such as the dense layer of a sentence encoder, weights among them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.files.model_config import modules_in
from graft.files.weight_index import ADAPTER, INDEX
from graft.tensors.checkpoint import Checkpoint, is_weight_file

_WHOLE_MODELS = re.compile(r"onnx|openvino|original|coreml|tflite|gguf|checkpoint-\d+")


@dataclass(frozen=True)
class SideFiles:
    """The files beside the weights.

    Attributes:
        copied: the files that a copy takes along, ascending.
        left_out: lines "PATH (reason)", PATH below the folder, of what it leaves out; hidden files are not listed.
    """

    copied: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


def find_side_files(checkpoint: Checkpoint) -> SideFiles:
    """Find tokenizer, configs, and parts of the model in folders of their own; a single file has none."""
    folder = checkpoint.path
    if folder.is_file():
        return SideFiles()
    weights, parts = (
        {INDEX, *(file.name for file in checkpoint.files.values())},
        frozenset(part.partition("/")[0] for part in modules_in(folder)),
    )
    copied, left_out = [], []
    for name in sorted(_names_below(folder, parts)):
        stale = _is_stale(name, parts) and name not in weights
        reason = "stale weights" if stale else _reason_not_to_follow(folder, name)
        if reason:
            left_out.append(f"{name} ({reason})")
        elif name not in weights or name == INDEX:
            copied.append(folder / name)
    return SideFiles(tuple(copied), tuple(left_out))


def copy_side_files(side_files: SideFiles, source: Path, folder: Path) -> None:
    """Copy companion files from a model folder into another folder."""
    for file in side_files.copied:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _names_below(folder: Path, parts: frozenset[str]) -> Iterator[str]:
    """Yield all files, and as "NAME/" the folders and links to folders that are left out whole; skip hidden ones."""
    for inner, folders, files in os.walk(folder):
        relative = Path(inner).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        stale = {name for name in folders if _is_stale(f"{relative / name}/", parts)}
        skipped = [name for name in folders if name in stale or (Path(inner) / name).is_symlink()]
        yield from (f"{relative / name}/" for name in skipped)
        folders[:] = [name for name in folders if name not in skipped]
        yield from (str(relative / name) for name in files if not name.startswith("."))


def _is_stale(name: str, parts: frozenset[str]) -> bool:
    """Return whether a file at the root, or a folder ("NAME/"), holds the whole base once more."""
    top = name.partition("/")[0]
    if top in parts:
        return False
    if "/" in name:
        return _WHOLE_MODELS.fullmatch(top) is not None
    return is_weight_file(top) or top == ADAPTER


def _reason_not_to_follow(folder: Path, name: str) -> str | None:
    """Return why a link is not followed; None for a file, or a link within the folder or into the Hub's cache."""
    path, root = folder / name, Path(os.path.realpath(folder))
    target = Path(os.path.realpath(path))
    if path.is_dir():
        return "a link to a folder"
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "no plain file"
    if target.is_relative_to(root):
        return None
    is_cached = root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs"
    return None if is_cached else "a link out of the model's folder"
