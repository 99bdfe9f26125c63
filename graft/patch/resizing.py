"""Tensors that take another size in a merged checkpoint: a vocabulary with new rows, a head with other outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from graft.files.header import read_header
from graft.files.tensor_spec import TensorSpec
from graft.files.weight_index import INDEX
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.growth import declare_outputs, declare_rows
from graft.tensors.tensor_stream import Planned, write_tensors
from graft.tensors.vocabulary import extend_tokenizer, read_tokens


def resized_tensors(checkpoint: Checkpoint, assignment: Assignment) -> dict[str, Planned]:
    """Plan the tensors that take another size: listed name -> its new dtype, shape and values."""
    planned = {}
    for target_name, rows in assignment.rows.items():
        spec = checkpoint.spec(target_name)
        if spec.shape[0] == assignment.growths[target_name].start:  # else the files have the rows already
            grown = TensorSpec(spec.dtype, (spec.shape[0] + rows.shape[0], *spec.shape[1:]))
            for name in checkpoint.tied.listed(target_name, checkpoint.files):
                planned[name] = Planned(grown, partial(_append_rows, checkpoint, name, rows))
    for target_name, tensor in assignment.dense.items():
        if target_name in checkpoint.files and checkpoint.spec(target_name).shape != tensor.shape:
            spec = TensorSpec(checkpoint.spec(target_name).dtype, tuple(tensor.shape))
            for name in checkpoint.tied.listed(target_name, checkpoint.files):
                planned[name] = Planned(spec, partial(tensor.to, TORCH_DTYPES[spec.dtype]))
    return planned


def copy_shard(file: Path, copy: Path, resized: Mapping[str, Planned]) -> None:
    """Copy a safetensors file: as it is, or tensor by tensor where some take another size."""
    if not resized:
        shutil.copyfile(file, copy)
        return
    source, header = Checkpoint.open(file), read_header(file)
    unchanged = {name: Planned(source.spec(name), partial(source.read, name)) for name in source.names}
    write_tensors(copy, {**unchanged, **resized}, header.metadata)


def declare_sizes(checkpoint: Checkpoint, assignment: Assignment, copy: Checkpoint) -> None:
    """Update a merged folder's index, config and tokenizer for the tensors that took another size."""
    _declare_total(copy)
    for name in sorted(assignment.dense.keys() & checkpoint.files.keys()):
        before, after = (item.spec(name).shape for item in (checkpoint, copy))
        if before[:1] != after[:1]:
            declare_outputs(copy.path, before[0], after[0])
    rows, growths = assignment.rows, assignment.growths
    for start, growth in {growth.start: growth for growth in growths.values()}.items():
        n = next(len(new_rows) for name, new_rows in rows.items() if growths[name].start == start)
        declare_rows(copy.path, start, start + n)
        extend_tokenizer(copy.path, start, growth.tokens)


def describe_vocabulary(folder: Path, patches: Sequence[Patch]) -> list[str]:
    """Describe whether the tokenizer has the tokens of new rows, a line each; no line where no vocabulary grew."""
    notes = []
    sizes = {(growth, len(patch.dense[name])) for patch in patches for name, growth in patch.provenance.grown.items()}
    for growth, n in sorted(sizes, key=lambda item: (item[0].start, item[1])):
        named = [token for token in growth.tokens if token]
        if named and read_tokens(folder, growth.start, growth.start + n) == growth.tokens:
            notes.append(f"the tokenizer has the {len(named):,} new tokens, as plain added tokens")
        else:
            notes.append(
                f"the tokenizer has no tokens for the {n:,} new rows from {growth.start:,} on: "
                "copy the tuned model's tokenizer files into the folder"
            )
    return notes


def _append_rows(checkpoint: Checkpoint, name: str, rows: torch.Tensor) -> torch.Tensor:
    base = checkpoint.read(name)
    return torch.cat([base, rows.to(base.dtype)])


def _declare_total(copy: Checkpoint) -> None:
    path = copy.path / INDEX
    if path.is_file():
        index = json.loads(path.read_text(encoding="utf-8"))
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": sum(map(copy.n_bytes, copy.names))}
        path.write_text(json.dumps(index, indent=2), encoding="utf-8")
