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


def listed_names(checkpoint: Checkpoint, name: str) -> list[str]:
    """The tensor and every listed name that is tied to it."""
    group = next((group for group in checkpoint.tied if name in group), frozenset((name,)))
    return sorted(group & checkpoint.files.keys())


def resized_tensors(checkpoint: Checkpoint, assignment: Assignment) -> dict[str, Planned]:
    """Listed name -> what becomes of a tensor that takes another size."""
    found = {}
    for place, rows in assignment.rows.items():
        spec = checkpoint.spec(place)
        if spec.shape[0] == assignment.growths[place].start:
            grown = TensorSpec(spec.dtype, (spec.shape[0] + rows.shape[0], *spec.shape[1:]))
            for name in listed_names(checkpoint, place):
                found[name] = Planned(grown, partial(_append_rows, checkpoint, name, rows))
    for place, whole in assignment.dense.items():
        if place in checkpoint.files and checkpoint.spec(place).shape != whole.shape:
            spec = TensorSpec(checkpoint.spec(place).dtype, tuple(whole.shape))
            for name in listed_names(checkpoint, place):
                found[name] = Planned(spec, partial(whole.to, TORCH_DTYPES[spec.dtype]))
    return found


def copy_shard(file: Path, copy: Path, resized: Mapping[str, Planned]) -> None:
    """Copy a safetensors file: as it is, or tensor by tensor where some take another size."""
    if not resized:
        shutil.copyfile(file, copy)
        return
    source, header = Checkpoint.open(file), read_header(file)
    kept = {name: Planned(source.spec(name), partial(source.read, name)) for name in source.names}
    write_tensors(copy, {**kept, **resized}, header.metadata)


def declare_sizes(checkpoint: Checkpoint, assignment: Assignment, copy: Checkpoint) -> None:
    """Tell a merged folder's index, config and tokenizer of what took another size there."""
    _declare_total(copy)
    for place in sorted(assignment.dense.keys() & checkpoint.files.keys()):
        before, after = (item.spec(place).shape for item in (checkpoint, copy))
        if before[:1] != after[:1]:
            declare_outputs(copy.path, before[0], after[0])
    rows, growths = assignment.rows, assignment.growths
    for start, growth in {growth.start: growth for growth in growths.values()}.items():
        n = next(len(rows[place]) for place in rows if growths[place].start == start)
        declare_rows(copy.path, start, start + n)
        extend_tokenizer(copy.path, start, growth.tokens)


def describe_vocabulary(folder: Path, patches: Sequence[Patch]) -> list[str]:
    """What became of the tokens of new rows in a merged folder, for a person; nothing where no vocabulary grew."""
    notes = []
    sizes = {(growth, len(patch.dense[name])) for patch in patches for name, growth in patch.provenance.grown.items()}
    for growth, n in sorted(sizes, key=lambda item: (item[0].start, item[1])):
        held, known = read_tokens(folder, growth.start, growth.start + n), [token for token in growth.tokens if token]
        if known and held == growth.tokens:
            notes.append(f"the tokenizer has the {len(known):,} new tokens, as plain added tokens")
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
