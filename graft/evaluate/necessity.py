"""Necessity of a region: the share of the skill that is lost when the region alone goes back to the base.

A graft shows that the region suffices; the tuned model with the base's values in the region shows whether it is
needed. A region can suffice without being needed where tuning stored the skill more than once. The removal is itself a
patch, which is why this module, like `curve`, builds on patches and localization and stands above them.
"""

from __future__ import annotations

import torch

from graft.errors import MismatchError
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget
from graft.patch.provenance import Provenance
from graft.patch.region_placement import place_region
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model, open_pair
from graft.tensors.dtypes import take
from graft.tensors.hashing import hash_values


def cut_removal(base: Model, tuned: Model, *regions: Patch | Mask) -> Patch:
    """Cut the patch that, applied to the tuned model, puts the base's values back in regions.

    It holds no whole tensors: a classifier head that only the tuned model has stays on it. It belongs to the tuned
    model, and is not meant to be saved.

    Args:
        base: the model whose values are put back.
        tuned: the model that they are put into.
        regions: patches or masks of this base; the tuned model may hold any values there.

    Raises:
        BudgetError: the regions are empty.
        PatchMismatchError: a patch was cut from another base, or a region does not fit it by names and shapes.
        MismatchError, CheckpointError: the checkpoints do not fit together or cannot be read.
    """
    pair = open_pair(base, tuned)
    target, name_of_base = StoredTarget(pair.base), pair.base.path.name
    mask = Mask.of({}, {})
    for region in regions:
        mask = mask | place_region(region, target, name_of_base)
    lacking = next((name for name in mask if name not in pair.names), None)
    if lacking is not None:
        raise MismatchError(f"tensor {lacking!r}: {pair.tuned.path.name} has none to put the base's values into")
    tuned_indices = {pair.names[name]: indices for name, indices in mask.indices.items()}
    tuned_mask = Mask.of({name: pair.tuned.spec(name) for name in tuned_indices}, tuned_indices)
    values, hashes = {}, {}
    for name, indices in mask.indices.items():
        entries, tuned_name = torch.tensor(indices), pair.names[name]
        now = take(
            pair.tuned.read(tuned_name), entries
        )  # of a vocabulary that grew, the rows that both have come first
        values[tuned_name], hashes[tuned_name] = take(pair.base.read(name), entries).to(now.dtype), hash_values(now)
    tied = tuple(tuple(sorted(group)) for group in pair.tuned.tied)
    return Patch(tuned_mask, values, hashes, Provenance(tied=tied))


def lost_gain(without: float, base: float, tuned: float) -> float | None:
    """Return (tuned - without) / (tuned - base) on the task metric; None where tuning gained nothing.

    It is 1 where the region was all of the gain, 0 where the rest makes up for it.
    """
    return None if tuned <= base else (tuned - without) / (tuned - base)
