"""Grafting onto a checkpoint on disk: a merged copy that any server loads."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.outputs import new_folder
from graft.patch.fit import Fit, check_fit
from graft.patch.resizing import copy_shard, declare_sizes, listed_names, resized_tensors
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule, stack_patches
from graft.tensors.architecture import naming_of
from graft.tensors.checkpoint import INDEX, SINGLE, WEIGHT_SUFFIXES, Checkpoint
from graft.tensors.dtypes import ITEM_SIZES, TORCH_DTYPES, TensorSpec, as_bits, take
from graft.tensors.header import read_header

_EXTRA_SHARD = "model-graft-{}.safetensors"  # numbered: the base may be a merged checkpoint itself


class StoredTarget:
    """A checkpoint on disk, as a target for `check_fit`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.names = checkpoint.names
        self.prefix, self.rename = naming_of(checkpoint.architecture)
        self.can_resize = True

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor."""
        return self.checkpoint.spec(name)

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """The values at flat indices."""
        return take(self.checkpoint.read(name), indices)

    def owner(self, name: str) -> str:
        """The first listed name of the group of tied ones."""
        return listed_names(self.checkpoint, name)[0]


def merge_patches(
    checkpoint: Checkpoint,
    patches: Sequence[Patch],
    out: Path,
    *,
    on_overlap: OverlapRule = "error",
    allow_mismatch: bool = False,
    force: bool = False,
    progress: Callable[[int], object] = lambda n_bytes: None,
) -> int:
    """Write a copy of a model folder with patches assigned: same shards, index, dtypes, tokenizer, configs.

    Shards are copied as files and patched in place in the copy, so that memory holds no tensor, and every
    byte that the patches do not name stays the base's. A shard with a tensor that takes another size, a grown
    vocabulary's or a head's, is written anew tensor by tensor; config, index and tokenizer are told of new rows.

    Args:
        checkpoint: an opened model folder, or a single safetensors file.
        patches: one or more, all checked before the first write.
        out: the folder to make.
        on_overlap: what to do where patches want different values.
        allow_mismatch: do not compare the base's values.
        force: replace an existing folder.
        progress: called with the number of bytes of each file once it is written.

    Returns:
        The number of entries assigned.

    Raises:
        PatchMismatchError, OverlapError, OutputError: nothing was written.
    """
    target = StoredTarget(checkpoint)
    fits: list[Fit] = [
        check_fit(patch, target, check_base=not allow_mismatch).require(checkpoint.path.name) for patch in patches
    ]
    assignment = stack_patches(patches, fits, on_overlap, target.gather)
    resized = resized_tensors(checkpoint, assignment)
    with new_folder(out, force=force) as folder:
        copy_companions(checkpoint, folder)
        for file in sorted(set(checkpoint.files.values())):
            copy_shard(
                file, folder / file.name, {name: resized[name] for name in resized if checkpoint.files[name] == file}
            )
            progress(file.stat().st_size)
        copy = _open_copy(checkpoint, folder)
        _assign_entries(checkpoint, assignment, copy)
        if resized:
            declare_sizes(checkpoint, assignment, copy)
        _place_dense(checkpoint, patches, assignment, copy)
    return len(assignment)


def _open_copy(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The copied files: what took another size moved the others."""
    headers = {file: read_header(folder / file.name) for file in set(checkpoint.files.values())}
    stored = {name: headers[file].tensors[name] for name, file in checkpoint.files.items()}
    return Checkpoint(folder, {name: folder / file.name for name, file in checkpoint.files.items()}, stored)


def copy_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Everything but weights: stale shards and other formats would contradict the merged values."""
    for source in companions_of(checkpoint):
        place = folder / source.relative_to(checkpoint.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)


def companions_of(checkpoint: Checkpoint) -> list[Path]:
    """The files beside the weights, such as tokenizer and configs; none of a single file."""
    found = []
    for source in [] if checkpoint.path.is_file() else sorted(checkpoint.path.rglob("*")):
        hidden = any(part.startswith(".") for part in source.relative_to(checkpoint.path).parts)
        if not hidden and source.suffix not in WEIGHT_SUFFIXES and source.is_file():
            found.append(source)
    return found


def _assign_entries(checkpoint: Checkpoint, assignment: Assignment, copy: Checkpoint) -> None:
    for place, (indices, values) in assignment.entries.items():
        for name in listed_names(checkpoint, place):
            _stored_bits(copy, name)[indices.numpy()] = as_bits(values).numpy()


def _stored_bits(copy: Checkpoint, name: str) -> Any:
    """A tensor's bytes in the copy, mapped for writing, as flat integers of its width."""
    stored = copy.stored[name]
    width = ITEM_SIZES[stored.spec.dtype]
    kind = f"<i{width}" if width > 1 else "u1"  # as in `as_bits`
    return np.memmap(copy.files[name], dtype=kind, mode="r+", offset=stored.start, shape=(stored.spec.numel,))


def _place_dense(checkpoint: Checkpoint, patches: Sequence[Patch], assignment: Assignment, copy: Checkpoint) -> None:
    """Whole tensors: replaced where the base has them, else stored in a shard of their own."""
    lacking = {name: whole for name, whole in assignment.dense.items() if name not in checkpoint.files}
    for name in assignment.dense.keys() - lacking.keys():
        whole = assignment.dense[name].to(TORCH_DTYPES[checkpoint.spec(name).dtype])
        for place in listed_names(checkpoint, name):
            _stored_bits(copy, place)[:] = as_bits(whole.flatten()).numpy()
    if lacking:
        _add_shard(checkpoint, lacking, copy.path)
    if any(name in lacking or whole.shape != checkpoint.spec(name).shape for name, whole in assignment.dense.items()):
        _name_head(patches, copy.path)


def _add_shard(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    from safetensors.torch import save

    extra = next(name for name in map(_EXTRA_SHARD.format, itertools.count()) if not (folder / name).exists())
    (folder / extra).write_bytes(save(tensors, metadata={"format": "pt"}))  # so that a full disk is an OSError
    shards = {name: file.name for name, file in checkpoint.files.items()}
    if SINGLE in shards.values():  # a single file beside an index would hide the new shard
        renamed = "model-base.safetensors"
        (folder / SINGLE).rename(folder / renamed)
        shards = dict.fromkeys(shards, renamed)
    shards |= dict.fromkeys(tensors, extra)
    size = sum((folder / shard).stat().st_size for shard in set(shards.values()))
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(shards.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _name_head(patches: Sequence[Patch], folder: Path) -> None:
    """Tell config.json of the head, so that the Auto classes load it."""
    config_file = folder / "config.json"
    task = next((patch.provenance.task for patch in patches if patch.dense and patch.provenance.task), None)
    if task is None or not config_file.is_file():
        return
    config = json.loads(config_file.read_text(encoding="utf-8"))
    labels, head = task.get("labels"), task.get("head")
    if isinstance(labels, (list, tuple)) and labels:  # what a stranger's patch says of its task may be anything
        config["id2label"] = {str(position): str(label) for position, label in enumerate(labels)}
        config["label2id"] = {str(label): position for position, label in enumerate(labels)}
    if isinstance(head, Mapping) and isinstance(head.get("architecture"), str):
        config["architectures"] = [head["architecture"]]
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
