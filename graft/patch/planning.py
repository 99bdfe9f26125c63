"""Memory and disk that grafting onto a checkpoint will take, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from graft.errors import PatchFormatError
from graft.patch.compatibility import check_specs
from graft.patch.format.coding import CONTINUE
from graft.patch.format.declaration import read_declaration, read_patch_header
from graft.patch.format.tensor_table import TensorRow
from graft.patch.merge import StoredTarget
from graft.patch.model_folder import find_companions
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import ITEM_SIZES, TensorSpec
from graft.tensors.header import Header
from graft.tensors.memory import MemoryPlan, Part

HELD = 16  # bytes per entry beside its values and code: the index in the mask, and where it is written
DECODED = 24  # more, per entry of the largest row, while its code is read
ROW = 256  # bytes of a row of the table, with a long name
ABOUT = 1 << 14  # bytes of what a patch says of itself


def plan_merge(checkpoint: Checkpoint, patches: Sequence[Path], out: Path) -> MemoryPlan:
    """Return what `merge_patches` with the same arguments will take; of the patches only headers are read.

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
        own_rows, dense = _read_rows(file, header, checkpoint)
        files.append(file)
        rows += own_rows
        whole += dense
    shards = sum(file.stat().st_size for file in set(checkpoint.files.values()))
    besides = sum(file.stat().st_size for file in find_companions(checkpoint).copied)
    sizes = sum(file.stat().st_size for file in files)
    parts = [
        Part("patches", sizes),
        Part(f"their {sum(row.k for row in rows):,} entries", HELD * sum(row.k for row in rows)),
        Part("the largest row while it is read", DECODED * max(row.k for row in rows)),
        Part("whole tensors", 2 * whole),
        Part("weights", shards + whole, "disk"),
        Part("tokenizer, configs", besides, "disk"),
    ]
    return MemoryPlan.of(torch.device("cpu"), parts, reads=shards + besides + sizes, out=out)


def patch_file_bytes(specs: Mapping[str, TensorSpec], k: int, item: int) -> int:
    """Return the most bytes that a patch of k entries takes, wherever in the tensors they lie.

    A tensor of n elements takes at most k + n / 65,535 tokens of two bytes, or n / 8 bytes of bits.

    Args:
        specs: the tensors from which they are.
        k: entries.
        item: bytes of an entry's values.
    """
    n = sum(spec.numel for spec in specs.values())
    return min(2 * (k + n // CONTINUE), n // 8 + len(specs)) + item * k + ROW * len(specs) + ABOUT


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
