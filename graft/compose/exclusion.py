"""Exclusion: a skill less the regions of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graft.arguments import checked
from graft.compose.base_values import BaseValues, check_base, require_one_base
from graft.compose.compose_provenance import describe_exclusion
from graft.compose.sources import Region, Source, open_sources, refuse_mask
from graft.errors import BudgetError
from graft.patch.format.reading import Entries
from graft.patch.mask import Indices, Mask
from graft.patch.skill_patch import Patch


@checked
def exclude_patches(
    patch: Patch | str | Path,
    *without: Patch | Mask | str | Path,
    base: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> Patch:
    """Take out of a patch the entries that lie in other regions, and the whole tensors that those hold too.

    Values are not looked at: an entry goes wherever another region has its coordinate. Where the parts of a
    composition are disjoint, taking the others out of it gives each part back.

    Args:
        patch: in memory, or the path of a patch file.
        without: patches or masks, of the same base.
        base: the base model, needed where a tensor keeps some of its entries and loses others, unless the patch stores
            the base's values or is of the embedded encoder.
        labels: names of the patch and the others in the provenance; by default file or task names.

    Raises:
        BudgetError: nothing is left.
        PatchMismatchError: they are of different bases, or one of them does not fit `base`.
        PatchError: the base's values are needed and not known.
        PatchFormatError: a file that is no patch, or a mask to exclude from.
    """
    regions: Sequence[Region] = (patch, *without)
    sources = open_sources(regions, labels, values=False)
    source, others = sources[0], sources[1:]
    refuse_mask(source, patch)
    identity, base_values = require_one_base(sources), BaseValues([source], base)
    removed: dict[str, int] = {"": 0} | dict.fromkeys((other.label for other in others), 0)
    parts: dict[str, tuple[Indices, torch.Tensor, str, torch.Tensor | None]] = {}
    for name in source.specs:
        entries = source.read(name)
        keep = _mark_remaining(name, entries, others, removed)
        removed[""] += int((~keep).sum())
        if keep.any():
            parts[name] = _cut(name, entries, keep, base_values)
    for other in others if base is not None else ():
        check_base(other, str(base))
    removed_whole = sorted({name for other in others for name in other.dense} & set(source.dense))
    if not parts:
        raise BudgetError(f"nothing is left of {source.label}: every entry lies in {' or '.join(removed)[4:]}")
    return Patch(
        Mask.of({name: source.specs[name] for name in parts}, {name: part[0] for name, part in parts.items()}),
        {name: part[1] for name, part in parts.items()},
        {name: part[2] for name, part in parts.items()},
        describe_exclusion(source, others, removed, removed_whole, identity),
        {name: part[3] for name, part in parts.items() if part[3] is not None} if source.has_base else None,
        {name: read() for name, read in source.dense.items() if name not in removed_whole},
    )


def _mark_remaining(name: str, entries: Entries, others: Sequence[Source], removed: dict[str, int]) -> np.ndarray:
    """Mark, (k,) bool, the entries that no other region has; count into `removed` what each region takes."""
    keep = np.ones(entries.indices.size, np.bool_)
    for other in others:
        if name in other.specs:
            taken = np.isin(entries.indices, other.read(name).indices, assume_unique=True)
            removed[other.label] += int(taken.sum())
            keep &= ~taken
    return keep


def _cut(
    name: str, entries: Entries, keep: np.ndarray, base_values: BaseValues
) -> tuple[Indices, torch.Tensor, str, torch.Tensor | None]:
    """Return the remaining indices, tuned values and hash of the base's values, and these if the patch stores them."""
    assert entries.values is not None  # masks were refused on opening
    values = base_values.at(name, entries.indices, {0: entries})  # at all entries, so that a wrong base is noticed
    positions, indices = torch.from_numpy(np.flatnonzero(keep)), entries.indices[keep]
    remaining = None if values is None else values[positions]
    base_hash = base_values.hash_at(name, indices, {0: entries}, remaining)  # the patch's own where all entries remain
    return indices, entries.values[positions], base_hash, None if entries.base is None else entries.base[positions]
