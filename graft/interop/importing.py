"""Import of another tool's file: make a patch from it and its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from graft.errors import BudgetError
from graft.files.location import locate
from graft.interop.registry import IMPORT_FORMATS
from graft.localize.budget import resolve_budget
from graft.patch.mask import Indices, Mask
from graft.patch.provenance import trace_provenance
from graft.patch.skill_patch import Patch
from graft.scores.selection import select_top
from graft.sources.adapters.imported_weights import Edit
from graft.sources.adapters.matching import apply_edits, match_edits
from graft.sources.adapters.sizes import cut_rows, new_rows
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits, take
from graft.tensors.hashing import hash_values
from graft.tensors.pair import refuse_not_finite
from graft.tensors.scope import Scope


def import_patch(
    file: Path,
    source: str,
    base: str,
    *,
    density: float | None = None,
    budget: int | None = None,
    with_base_values: bool = False,
) -> Patch:
    """Make a patch of the changes that another tool's file makes to a base, with one tensor in memory at a time.

    Args:
        file: the file or folder.
        source: the file's format, a name of `IMPORT_FORMATS`.
        base: the model that the file belongs to.
        density, budget: number of entries to keep, those that change most; without them every changed entry.
        with_base_values: also store the base's values.

    Raises:
        ConfigError: no such format.
        CheckpointError: the file is junk or of another kind, or the base cannot be read.
        MismatchError: the file does not belong to this base; the tensor is named.
        BudgetError: the file changes nothing, or less than the budget.
    """
    import_format, located = IMPORT_FORMATS.find(source), locate(base)
    checkpoint = Checkpoint.open(located.path)
    weights = import_format.read(file, checkpoint)
    edits, dense = match_edits(weights, checkpoint)
    edited = {name: partial(_edit, checkpoint, name, edits[name], file) for name in sorted(edits)}
    mask = _choose_entries(checkpoint, edited, density, budget)
    rows, grown = new_rows(checkpoint, edits, file)
    dense |= rows
    for name, tensor in dense.items():
        refuse_not_finite(tensor, name, file)
    config = {"method": "import", "from": source, "density": density, "budget": budget, **weights.config}
    buffers = tuple(sorted(checkpoint.buffers.intersection(mask)))
    provenance = replace(trace_provenance(located, checkpoint, Scope("all"), config), grown=grown, buffers=buffers)
    values, before = _take_values(checkpoint, edited, mask)
    hashes = {name: hash_values(tensor) for name, tensor in before.items()}
    return Patch(mask, values, hashes, provenance, before if with_base_values else None, dense)


def _edit(base: Checkpoint, name: str, edits: list[Edit], file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one tensor of the base and its tuned values, without new rows of a vocabulary.

    Raises:
        MismatchError: the file gives tied names different values.
        CheckpointError: a value is NaN or infinite.
    """
    before = base.read(name)
    without_new_rows = cut_rows(base, name, apply_edits(before, name, edits))
    refuse_not_finite(without_new_rows, name, file)
    return before, without_new_rows


Edited = Mapping[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]]


def _choose_entries(base: Checkpoint, edited: Edited, density: float | None, budget: int | None) -> Mask:
    indices: Mapping[str, Indices]
    if density is None and budget is None:
        indices = {name: _changed(*edit()).nonzero().squeeze(1).numpy() for name, edit in edited.items()}
    else:
        k = resolve_budget(base.n_parameters, density or 0.0, budget)
        names = [name for name in edited if name in base.parameters]
        n = sum(int(_changed(*edited[name]()).sum()) for name in names)
        if n < k:
            raise BudgetError(f"a budget of {k:,} entries, but the imported file changes only {n:,} of the base's own")
        indices = select_top({name: partial(_measure_change, edited[name]) for name in names}, names, k)
    mask = Mask.of({name: base.spec(name) for name in indices}, indices)
    if not len(mask):
        raise BudgetError("the imported file changes nothing of the base's own values: there is nothing to cut out")
    return mask


def _changed(before: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    return (as_bits(before) != as_bits(tuned)).flatten()


def _measure_change(edit: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Compute (n,) fp32 |tuned - base|, -inf where the bits are equal."""
    before, tuned = edit()
    return (tuned.float() - before.float()).abs().flatten().masked_fill_(~_changed(before, tuned), -torch.inf)


def _take_values(
    base: Checkpoint, edited: Edited, mask: Mask
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Take the tuned values at a mask, and the base's."""
    values, before = {}, {}
    for name, indices in mask.indices.items():
        before[name], values[name] = (take(tensor, torch.tensor(indices)) for tensor in edited[name]())
    return values, before
