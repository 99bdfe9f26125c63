"""What lies in a model folder beside its weights, and what of it a changed copy of the model takes along.

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
from graft.files.weight_index import INDEX
from graft.tensors.checkpoint import Checkpoint

_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|h5|msgpack|onnx|onnx_data|tflite|ot|pt|pth|ckpt|gguf)|.+\.index\.json|adapter_config\.json"
)
_WHOLE_MODELS = re.compile(r"onnx|openvino|original|coreml|tflite|gguf|checkpoint-\d+")


@dataclass(frozen=True)
class Companions:
    """The files beside the weights.

    Attributes:
        copied: what a copy takes along, ascending.
        left_out: what it does not -> why, as paths below the folder; hidden files are not told of.
    """

    copied: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


def find_companions(checkpoint: Checkpoint) -> Companions:
    """Tokenizer, configs, and parts of the model in folders of their own; none of a single file."""
    folder = checkpoint.path
    if folder.is_file():
        return Companions()
    weights, parts = (
        {INDEX, *(file.name for file in checkpoint.files.values())},
        frozenset(part.partition("/")[0] for part in modules_in(folder)),
    )
    copied, left_out = [], []
    for name in sorted(_names_below(folder, parts)):
        stale = _is_stale(name, parts) and name not in weights
        why = "stale weights" if stale else _why_not_to_follow(folder, name)
        if why:
            left_out.append(f"{name} ({why})")
        elif name not in weights or name == INDEX:
            copied.append(folder / name)
    return Companions(tuple(copied), tuple(left_out))


def copy_companions(companions: Companions, source: Path, folder: Path) -> None:
    """Copy them as files."""
    for file in companions.copied:
        place = folder / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _names_below(folder: Path, parts: frozenset[str]) -> Iterator[str]:
    """Files, links and folders that are left out whole; hidden ones are passed over."""
    for inner, folders, files in os.walk(folder):
        here = Path(inner).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        whole = [name for name in folders if _is_stale(f"{here / name}/", parts) or (Path(inner) / name).is_symlink()]
        yield from (f"{here / name}/" for name in whole)
        folders[:] = [name for name in folders if name not in whole]
        yield from (str(here / name) for name in files if not name.startswith("."))


def _is_stale(name: str, parts: frozenset[str]) -> bool:
    """Whether a file at the root, or a folder ("NAME/"), holds the whole base once more."""
    top = name.partition("/")[0]
    known = _WHOLE_MODELS if "/" in name else _WEIGHTS
    return top not in parts and known.fullmatch(top) is not None


def _why_not_to_follow(folder: Path, name: str) -> str | None:
    """Links are followed within the folder, and from a snapshot of the Hub's cache to the files that it holds."""
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
