"""Merge patches into a copy of a checkpoint on disk, which any server loads."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.errors import OverlapError, PatchMismatchError
from graft.files.claims import Output, claim_output
from graft.files.header import read_header
from graft.files.outputs import new_folder
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.files.weight_index import INDEX, SINGLE
from graft.patch.compatibility import Compatibility, check_compatible
from graft.patch.head_config import head_of_patches, read_head, write_head
from graft.patch.model_folder import copy_side_files, find_side_files
from graft.patch.resizing import copy_shard, declare_sizes, resized_tensors
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule, stack_patches, with_rows
from graft.patch.unused_weights import drop_tensors, find_unused
from graft.tensors.architecture import name_map_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import DTYPE_NAMES, TORCH_DTYPES, as_bits, take
from graft.tensors.relayout import relay_all

_EXTRA_SHARD = "model-graft-{}.safetensors"  # numbered: the base may be a merged checkpoint itself


class StoredTarget:
    """A checkpoint on disk, as a target for `check_compatible`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        checkpoint.relaid |= relay_all(checkpoint)  # a patch may have been cut from files of the other layout
        self.names = (*checkpoint.names, *checkpoint.relaid)
        self.name_map = name_map_of(checkpoint.architecture)
        self.can_resize = True

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor."""
        return self.checkpoint.spec(name)

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """Return the values at flat indices."""
        return take(self.checkpoint.read(name), indices)

    def owner(self, name: str) -> str:
        """Return the first listed name of the group of tied ones."""
        return name if name in self.checkpoint.relaid else self.checkpoint.tied.owner(name, self.checkpoint.files)


def merge_patches(
    checkpoint: Checkpoint,
    patches: Sequence[Patch],
    out: Output,
    *,
    on_overlap: OverlapRule = "error",
    allow_mismatch: bool = False,
    force: bool = False,
    progress: Callable[[int], object] = lambda n_bytes: None,
    say: Callable[[str], object] = lambda line: None,
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
        say: called with a line about each file or weight of the base that is left out.

    Returns:
        The number of entries assigned.

    Raises:
        PatchMismatchError, OverlapError, OutputError: nothing was written.
    """
    claim = claim_output(out, is_folder=True, force=force, inputs=[checkpoint.path])
    assignment = assign_in_files(checkpoint, patches, on_overlap, allow_mismatch=allow_mismatch)
    n_assigned = len(assignment)  # new rows are none of these, also where files have room for them
    assignment = with_rows(assignment, checkpoint.spec)
    resized = resized_tensors(checkpoint, assignment)
    with new_folder(claim) as folder:
        side_files = find_side_files(checkpoint)
        copy_side_files(side_files, checkpoint.path, folder)
        for file in sorted(set(checkpoint.files.values())):
            copy_shard(
                file, folder / file.name, {name: resized[name] for name in resized if checkpoint.files[name] == file}
            )
            progress(file.stat().st_size)
        copy = _open_copy(checkpoint, folder)
        _assign_entries(checkpoint, assignment, copy)
        if resized:
            declare_sizes(checkpoint, assignment, copy)
        _assign_dense(checkpoint, assignment, copy)
        unused = name_head(checkpoint.names, patches, on_overlap, folder)
        drop_tensors(folder, unused)
        dropped = [f"{name} (a {read_head(folder)['architecture']} has no such weight)" for name in unused]
    for name in (*side_files.left_out, *dropped):
        say(f"left out: {name}")
    return n_assigned


def assign_in_files(
    checkpoint: Checkpoint, patches: Sequence[Patch], on_overlap: OverlapRule, *, allow_mismatch: bool = False
) -> Assignment:
    """Check patches against a checkpoint and join them into one assignment to the tensors that its files list.

    Raises:
        PatchMismatchError, OverlapError: one does not fit, or two disagree.
    """
    target = StoredTarget(checkpoint)
    outcomes: list[Compatibility] = [
        check_compatible(patch, target, check_base=not allow_mismatch).require(checkpoint.path.name)
        for patch in patches
    ]
    return place_in_files(checkpoint, stack_patches(patches, outcomes, on_overlap, target.gather))


def place_in_files(checkpoint: Checkpoint, assignment: Assignment) -> Assignment:
    """Translate an assignment to the tensors as the files list them, expert by expert or packed.

    Raises:
        OverlapError: patches of either layout want different values at one place.
    """
    if not assignment.entries.keys() & checkpoint.relaid.keys():
        return assignment
    parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for name, (indices, values) in assignment.entries.items():
        for stored, chosen, local in checkpoint.locate(name, indices):
            parts.setdefault(stored, []).append((local, values[chosen]))
    entries = {stored: _join(stored, pieces) for stored, pieces in parts.items()}
    return dataclasses.replace(assignment, entries={stored: pair for stored, pair in entries.items() if len(pair[0])})


def _join(name: str, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    indices, values = torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])
    order = indices.argsort(stable=True)
    indices, values = indices[order], values[order]
    repeated = indices[1:] == indices[:-1]
    if (as_bits(values)[1:] != as_bits(values)[:-1])[repeated].any():
        raise OverlapError(f"tensor {name!r}: patches name it whole and in parts, and want different values there")
    return indices, values


def _open_copy(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Open the copied files anew: a tensor that took another size moved the others."""
    headers = {file: read_header(folder / file.name) for file in set(checkpoint.files.values())}
    stored = {name: headers[file].tensors[name] for name, file in checkpoint.files.items()}
    return Checkpoint(folder, {name: folder / file.name for name, file in checkpoint.files.items()}, stored)


def name_head(names: Sequence[str], patches: Sequence[Patch], on_overlap: OverlapRule, folder: Path) -> tuple[str, ...]:
    """Write a head that a patch brings into a folder's config.json, so that the Auto classes load it.

    Args:
        names: the base's tensors.
        patches, on_overlap: as in `merge_patches`.
        folder: holds a copy of the base's config.json, or none.

    Returns:
        the names of the head's weights that the new one replaces, and no model of the new config has.
    """
    before = read_head(folder).get("architecture")
    task = head_of_patches(patches[::-1] if on_overlap == "last" else patches, before)
    if task is None or not write_head(task, folder) or task["head"]["architecture"] == before:
        return ()
    return find_unused(folder, names)


def _assign_entries(checkpoint: Checkpoint, assignment: Assignment, copy: Checkpoint) -> None:
    """Assign entries, whose bits are written as they are.

    Raises:
        PatchMismatchError: the values have another dtype than the file's, in which their bits mean other numbers.
    """
    for target_name, (indices, values) in assignment.entries.items():
        for name in checkpoint.tied.listed(target_name, checkpoint.files):
            dtype = copy.stored[name].spec.dtype
            if values.dtype != TORCH_DTYPES[dtype]:
                raise PatchMismatchError(
                    f"the patch does not fit {checkpoint.path.name}: tensor {name!r}: dtype {dtype}, the values are "
                    f"{DTYPE_NAMES[values.dtype]}"
                )
            _stored_bits(copy, name)[indices.numpy()] = as_bits(values).numpy()


def _stored_bits(copy: Checkpoint, name: str) -> Any:
    """Return a tensor's bytes in the copy, mapped for writing, as flat integers of its width."""
    stored = copy.stored[name]
    width = ITEM_SIZES[stored.spec.dtype]
    kind = f"<i{width}" if width > 1 else "u1"  # as in `as_bits`
    return np.memmap(copy.files[name], dtype=kind, mode="r+", offset=stored.start, shape=(stored.spec.numel,))


def _assign_dense(checkpoint: Checkpoint, assignment: Assignment, copy: Checkpoint) -> None:
    """Assign whole tensors: replace those that the base has, store the others in a shard of their own."""
    new = {name: tensor for name, tensor in assignment.dense.items() if name not in checkpoint.files}
    for name in assignment.dense.keys() - new.keys():
        tensor = assignment.dense[name].to(TORCH_DTYPES[checkpoint.spec(name).dtype])
        for stored_name in checkpoint.tied.listed(name, checkpoint.files):
            _stored_bits(copy, stored_name)[:] = as_bits(tensor.flatten()).numpy()
    if new:
        _add_shard(checkpoint, new, copy.path)


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
