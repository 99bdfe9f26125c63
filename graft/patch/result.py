"""The checkpoint that a base and patches give, read tensor by tensor as if it had been written.

Its digest, and whether another checkpoint is the same model, are known without a copy on disk: what `merge_patches`
would write is what this reads, name by name and bit by bit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from graft.errors import MismatchError
from graft.files.header import StoredTensor
from graft.files.weight_index import INDEX
from graft.patch.merge import assign_in_files, name_head
from graft.patch.resizing import resized_tensors
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule
from graft.tensors.architecture import read_architecture
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, as_bits, assign
from graft.tensors.hashing import digest_line, digest_of_lines, digest_of_values
from graft.tensors.pair import CheckpointPair
from graft.tensors.streaming import stream_tensors
from graft.tensors.tensor_stream import Planned, plan_tensor


class ResultCheckpoint(Checkpoint):
    """A base with patches in place, of which memory holds the tensors that are being read.

    Attributes:
        base: the checkpoint underneath.
        touched: names of the tensors that are not the base's own, new ones among them.

    Raises:
        PatchMismatchError, OverlapError: a patch does not fit, or two disagree.
    """

    def __init__(self, base: Checkpoint, patches: Sequence[Patch], on_overlap: OverlapRule = "error") -> None:
        assignment = assign_in_files(base, patches, on_overlap)
        self.base = base
        self._whole = _plan_whole(base, assignment)
        self._entries = _by_listed_name(base, assignment)
        self.touched = frozenset(self._whole.keys() | self._entries.keys())
        stored = {**base.stored, **{name: StoredTensor(planned.spec, 0, 0) for name, planned in self._whole.items()}}
        dropped = self._take_config(patches, on_overlap, has_index=bool(stored.keys() - base.stored.keys()))
        files = {name: base.files.get(name, base.path) for name in stored if name not in dropped}
        super().__init__(base.path, files, stored)

    def _take_config(self, patches: Sequence[Patch], on_overlap: OverlapRule, has_index: bool) -> frozenset[str]:
        """Learn the architecture that the result has; return the base's tensors that a new head leaves out."""
        if not self.base.path.is_dir():
            return frozenset()
        with tempfile.TemporaryDirectory(prefix="graft-") as name:
            folder = Path(name)
            if (self.base.path / "config.json").is_file():
                shutil.copyfile(self.base.path / "config.json", folder / "config.json")
            unused = name_head(self.base.names, patches, on_overlap, folder)
            self.architecture = read_architecture(folder)
        is_rewritten = has_index or (self.base.path / INDEX).is_file()
        return frozenset(unused if is_rewritten else ())

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, with the patches in place; treat it as read-only."""
        planned, entries = self._whole.get(name), self._entries.get(name)
        tensor = self.base.read(name) if planned is None else planned.make()
        if entries is None:
            return tensor
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        assign(tensor, *entries)
        return tensor

    def n_bytes(self, name: str) -> int:
        """Return the number of bytes that a tensor would take on disk."""
        return self.spec(name).n_bytes

    def prefetch(self, name: str) -> None:
        """Ask the system to read the base's tensor ahead, where there is one."""
        if name in self.base.files:
            self.base.prefetch(name)


def _plan_whole(base: Checkpoint, assignment: Assignment) -> dict[str, Planned]:
    """Plan the tensors that are not the base's but for entries: of another size, replaced whole, or new."""
    planned = resized_tensors(base, assignment)
    for name, tensor in assignment.dense.items():
        if name not in base.files:
            planned[name] = plan_tensor(tensor)
        else:
            replaced = tensor.to(TORCH_DTYPES[base.spec(name).dtype])
            planned |= dict.fromkeys(base.tied.listed(name, base.files), plan_tensor(replaced))
    return planned


def _by_listed_name(base: Checkpoint, assignment: Assignment) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Map each listed name to its entries; a tensor that is replaced whole takes none."""
    return {
        listed: entries
        for name, entries in assignment.entries.items()
        if name not in assignment.dense
        for listed in base.tied.listed(name, base.files)
    }


def digests_of(result: ResultCheckpoint) -> tuple[str, str]:
    """Return the digests of the base and of the result, from one pass over the base.

    A tensor that no patch touches is hashed once for both.
    """

    def hash_tensor(name: str) -> tuple[bytes, bytes]:
        before = _line_of(result.base, name) if name in result.base.files else b""
        if name not in result.files:
            return before, b""
        return before, _line_of(result, name) if name in result.touched else before

    names = sorted({*result.base.names, *result.names})
    lines = list(stream_tensors(hash_tensor, names, lambda name: [(_holder(result, name), name)], "digest"))
    before, after = zip(*lines, strict=True)
    return digest_of_lines(before), digest_of_lines(after)


def _line_of(checkpoint: Checkpoint, name: str) -> bytes:
    return digest_line(name, checkpoint.spec(name), digest_of_values(checkpoint.read(name)))


def _holder(result: ResultCheckpoint, name: str) -> Checkpoint:
    return result if name in result.files else result.base


def find_differences(result: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """Compare a checkpoint with a result tensor by tensor; names may have any prefix.

    Returns:
        name of each tensor that is not the same -> what differs, in ascending order of name; empty where the
        checkpoint is that model. Checkpoints that cannot be compared tensor by tensor have one entry, under "".
    """
    try:
        pair = CheckpointPair.open(result, other)
    except MismatchError as error:
        return {"": str(error)}
    facts = dict.fromkeys(pair.absent, "the checkpoint lacks it")
    facts |= dict.fromkeys(pair.extra, "the result lacks it")
    facts |= {name: f"{result.spec(name)} in the result, of another shape or kind there" for name in pair.unlike}

    def compare(name: str) -> str | None:
        return _compare_tensors(result, name, other, pair.names[name])

    facts |= {name: str(_compare_tensors(result, name, other, theirs)) for name, theirs in pair.replaced.items()}
    compared = stream_tensors(compare, tuple(pair.names), pair.stored, "compare")
    facts |= {name: fact for name, fact in zip(pair.names, compared, strict=True) if fact}
    return dict(sorted(facts.items()))


def _compare_tensors(result: Checkpoint, name: str, other: Checkpoint, theirs: str) -> str | None:
    """Return what differs between two tensors; None where dtype, shape and every bit are the same."""
    if result.spec(name) != other.spec(theirs):
        return f"{result.spec(name)} in the result, {other.spec(theirs)} in the checkpoint"
    n = int((as_bits(result.read(name)) != as_bits(other.read(theirs))).sum())
    return f"{n:,} of {result.spec(name).numel:,} values" if n else None
