"""Plan the memory and disk that `graft apply` will take, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from graft.errors import PatchFormatError
from graft.files.header import Header
from graft.files.tensor_spec import ITEM_SIZES
from graft.memory.plan import Allocation, MemoryPlan
from graft.patch.compatibility import check_specs
from graft.patch.format.declaration import read_declaration, read_patch_header
from graft.patch.format.tensor_table import TensorRow
from graft.patch.merge import StoredTarget
from graft.patch.model_folder import find_side_files
from graft.tensors.checkpoint import Checkpoint

PER_ENTRY = 16  # bytes per entry beside its values and code: the index in the mask, and where it is written
PER_DECODED = 24  # more, per entry of the largest row, while its code is read


def plan_merge(checkpoint: Checkpoint, patches: Sequence[Path], out: Path) -> MemoryPlan:
    """Plan what `merge_patches` with the same arguments will take; of the patches only headers are read.

    Args:
        checkpoint: an opened model folder, or a single safetensors file.
        patches: files, or folders that hold one.
        out: the folder to make.

    Raises:
        PatchFormatError, PatchMismatchError: by the headers, the merge would be refused.
    """
    files: list[Path] = []
    rows: list[TensorRow] = []
    dense_bytes = 0
    for path in patches:
        file, header = read_patch_header(path)
        own_rows, own_dense_bytes = _read_rows(file, header, checkpoint)
        files.append(file)
        rows += own_rows
        dense_bytes += own_dense_bytes
    shards = sum(file.stat().st_size for file in set(checkpoint.files.values()))
    side_files = sum(file.stat().st_size for file in find_side_files(checkpoint).copied)
    patch_bytes = sum(file.stat().st_size for file in files)
    parts = [
        Allocation("patches", patch_bytes),
        Allocation(f"their {sum(row.k for row in rows):,} entries", PER_ENTRY * sum(row.k for row in rows)),
        Allocation("the largest row while it is read", PER_DECODED * max(row.k for row in rows)),
        Allocation("whole tensors", 2 * dense_bytes),
        Allocation("weights", shards + dense_bytes, "disk"),
        Allocation("tokenizer, configs", side_files, "disk"),
    ]
    return MemoryPlan.of(torch.device("cpu"), parts, reads=shards + side_files + patch_bytes, out=out)


def _read_rows(file: Path, header: Header, checkpoint: Checkpoint) -> tuple[tuple[TensorRow, ...], int]:
    """Return a patch's rows, which by the headers fit the checkpoint, and the bytes of its whole tensors."""
    declared = read_declaration(header, str(file))
    rows = declared.rows
    if declared.kind == "mask":
        raise PatchFormatError(f"{file}: a mask file holds no values; this needs a patch")
    shapes = {name: spec.shape for name, spec in declared.dense.items()}
    specs = {row.name: row.spec for row in rows}
    target, origin = StoredTarget(checkpoint), declared.provenance
    check_specs(specs, shapes, origin.tied, target, grown=origin.grown).require(checkpoint.path.name)
    return rows, sum(spec.numel * ITEM_SIZES[spec.dtype] for spec in declared.dense.values())
