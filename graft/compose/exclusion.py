"""Exclusion: a skill less the regions of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graft.arguments import checked
from graft.compose.base_values import BaseValues, check_base, require_one_base
from graft.compose.compose_provenance import Removed, describe_exclusion
from graft.compose.source_names import unify_names
from graft.compose.sources import Region, Source, open_sources, refuse_mask
from graft.errors import BudgetError
from graft.patch.format.reading import Entries
from graft.patch.mask import Indices, Mask
from graft.patch.skill_patch import Patch
from graft.patch.torn_tensors import Touched, settle_torn


@checked
def exclude_patches(
    patch: Patch | str | Path,
    *without: Patch | Mask | str | Path,
    base: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> Patch:
    """Take out of a patch the entries that lie in other regions, and the whole tensors that those hold too.

    Values are not looked at: an entry goes wherever another region has its coordinate. Of a module that one brings
    whole and the other changes in part, as a head, nothing stays. Where the parts of a composition are disjoint, taking
    the others out of it gives each part back.

    Args:
        patch: in memory, or the path of a patch file.
        without: patches or masks, of the same base.
        base: the base model, needed where a tensor keeps some of its entries and loses others, unless the patch stores
            the base's values or is of the embedded encoder; and where regions name its tensors in two ways.
        labels: names of the patch and the others in the provenance; by default file or task names.

    Raises:
        BudgetError: nothing is left.
        PatchMismatchError: they are of different bases, or one of them does not fit `base`; or, without it, they may
            call one tensor by two names.
        PatchError: the base's values are needed and not known.
        PatchFormatError: a file that is no patch, or a mask to exclude from.
    """
    regions: Sequence[Region] = (patch, *without)
    sources = open_sources(regions, labels, values=False)
    refuse_mask(sources[0], patch)
    source, *others = unify_names(sources, base, keep_first=True)
    identity, base_values = require_one_base([source, *others]), BaseValues([source], base)
    torn = [settle_torn([_touched(source), _touched(other)], "last")[0] for other in others]
    removed = Removed(dict.fromkeys((other.label for other in others), 0))
    parts: dict[str, tuple[Indices, torch.Tensor, str, torch.Tensor | None]] = {}
    for name in source.specs:
        entries = source.read(name)
        keep = _mark_remaining(name, entries, others, torn, removed)
        if keep.any():
            parts[name] = _cut(name, entries, keep, base_values)
    for other in sources[1:] if base is not None else ():
        check_base(other, str(base))
    left = frozenset[str]().union(*torn, *(other.dense for other in others))
    removed.whole = sorted(left & source.dense.keys())
    if not parts:
        raise BudgetError(f"nothing is left of {source.label}: every entry lies in {' or '.join(removed.by)}")
    return Patch(
        Mask.of({name: source.specs[name] for name in parts}, {name: part[0] for name, part in parts.items()}),
        {name: part[1] for name, part in parts.items()},
        {name: part[2] for name, part in parts.items()},
        describe_exclusion(source, others, removed, identity),
        {name: part[3] for name, part in parts.items() if part[3] is not None} if source.has_base else None,
        {name: read() for name, read in source.dense.items() if name not in removed.whole},
    )


def _touched(source: Source) -> Touched:
    return Touched.of(source.specs, source.dense, source.provenance.grown)


def _mark_remaining(
    name: str, entries: Entries, others: Sequence[Source], torn: Sequence[frozenset[str]], removed: Removed
) -> np.ndarray:
    """Mark, (k,) bool, the entries that stay, and count into `removed` what goes.

    Args:
        name: the tensor.
        entries: the patch's.
        others: the other regions.
        torn: for each of them the names of the tensors that the patch leaves to it as they are.
        removed: what has gone before.
    """
    keep = np.ones(entries.indices.size, np.bool_)
    for other, left in zip(others, torn, strict=True):
        if name in left:
            taken = np.ones_like(keep)
        elif name in other.specs:
            taken = np.isin(entries.indices, other.read(name).indices, assume_unique=True)
        else:
            continue
        removed.by[other.label] += int(taken.sum())
        keep &= ~taken
    removed.k += int((~keep).sum())
    removed.k_torn += keep.size if any(name in left for left in torn) else 0
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
