"""The memory and disk that `graft apply` will take, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from graft.errors import PatchFormatError
from graft.files.header import Header
from graft.files.tensor_spec import ITEM_SIZES
from graft.memory.plan import Allocation, MemoryPlan
from graft.patch.fit import check_specs
from graft.patch.format.declaration import read_declaration, read_patch_header
from graft.patch.format.tensor_table import TensorRow
from graft.patch.merge import StoredTarget
from graft.patch.model_folder import find_companions
from graft.tensors.checkpoint import Checkpoint

HELD = 16  # bytes per entry beside its values and code: the index in the mask, and where it is written
DECODED = 24  # more, per entry of the largest row, while its code is read


def plan_merge(checkpoint: Checkpoint, patches: Sequence[Path], out: Path) -> MemoryPlan:
    """Plan what `merge_patches` with the same arguments will take; of the patches only headers are read.

    Args:
        checkpoint: an opened model folder, or a single safetensors file.
        patches: files, or folders that hold one.
        out: the folder to make.

    Raises:
        PatchFormatError, PatchMismatchError: it would be refused for what headers tell.
    """
    files: list[Path] = []
    rows: list[TensorRow] = []
    whole = 0
    for path in patches:
        file, header = read_patch_header(path)
        found, dense = _read_rows(file, header, checkpoint)
        files.append(file)
        rows += found
        whole += dense
    shards = sum(file.stat().st_size for file in set(checkpoint.files.values()))
    besides = sum(file.stat().st_size for file in find_companions(checkpoint).copied)
    sizes = sum(file.stat().st_size for file in files)
    parts = [
        Allocation("patches", sizes),
        Allocation(f"their {sum(row.k for row in rows):,} entries", HELD * sum(row.k for row in rows)),
        Allocation("the largest row while it is read", DECODED * max(row.k for row in rows)),
        Allocation("whole tensors", 2 * whole),
        Allocation("weights", shards + whole, "disk"),
        Allocation("tokenizer, configs", besides, "disk"),
    ]
    return MemoryPlan.of(torch.device("cpu"), parts, reads=shards + besides + sizes, out=out)


def _read_rows(file: Path, header: Header, checkpoint: Checkpoint) -> tuple[tuple[TensorRow, ...], int]:
    """Return a patch's rows, which fit the checkpoint as far as headers tell, and the bytes of its whole tensors."""
    declared = read_declaration(header, str(file))
    rows = declared.rows
    if declared.kind == "mask":
        raise PatchFormatError(f"{file}: a mask file holds no values; this needs a patch")
    shapes = {name: spec.shape for name, spec in declared.dense.items()}
    specs = {row.name: row.spec for row in rows}
    target, origin = StoredTarget(checkpoint), declared.provenance
    check_specs(specs, shapes, origin.tied, target, grown=origin.grown).require(checkpoint.path.name)
    return rows, sum(spec.numel * ITEM_SIZES[spec.dtype] for spec in declared.dense.values())
