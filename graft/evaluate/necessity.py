"""Necessity: what is left of the skill when its region alone goes back to the base.

A graft shows that the region suffices; the tuned model with the base's values in the region shows whether it is
needed. A region can suffice and not be needed where tuning stored the skill more than once.
"""

from __future__ import annotations

from pathlib import Path

import torch

from graft.errors import MismatchError
from graft.files.location import locate
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget
from graft.patch.provenance import Provenance
from graft.patch.region_fit import place_region
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import take
from graft.tensors.pair import CheckpointPair
from graft.tensors.prints import print_of


def cut_removal(base: str | Path, tuned: str | Path, *regions: Patch | Mask) -> Patch:
    """The patch that, applied to the tuned model, puts the base's values back in regions.

    It holds no whole tensors: a classifier head that only the tuned model has stays on it. It belongs to the tuned
    model, and is not meant to be saved.

    Args:
        base: whose values are put back.
        tuned: the model that they are put into.
        regions: patches or masks of this base; what the tuned model holds there may be anything.

    Raises:
        BudgetError: the regions are empty.
        PatchMismatchError: a patch was cut from another base, or a region does not fit it by names and shapes.
        MismatchError, CheckpointError: the checkpoints do not fit together or cannot be read.
    """
    pair = CheckpointPair.open(locate(base).path, locate(tuned).path)
    target, what = StoredTarget(pair.base), pair.base.path.name
    mask = Mask.of({}, {})
    for region in regions:
        mask = mask | place_region(region, target, what)
    lacking = next((name for name in mask if name not in pair.names), None)
    if lacking is not None:
        raise MismatchError(f"tensor {lacking!r}: {pair.tuned.path.name} has none to put the base's values into")
    places = {pair.names[name]: indices for name, indices in mask.indices.items()}
    there = Mask.of({name: pair.tuned.spec(name) for name in places}, places)
    values, prints = {}, {}
    for name, indices in mask.indices.items():
        at, own = torch.tensor(indices), pair.names[name]
        now = take(pair.tuned.read(own), at)  # of a vocabulary that grew, the rows that both have come first
        values[own], prints[own] = take(pair.base.read(name), at).to(now.dtype), print_of(now)
    tied = tuple(tuple(sorted(group)) for group in pair.tuned.tied)
    return Patch(there, values, prints, Provenance(tied=tied))


def lost_gain(without: float, base: float, tuned: float) -> float | None:
    """(tuned - without) / (tuned - base) on the task metric; None where tuning changed nothing.

    1 where the region was all of the gain, 0 where the rest makes up for it.
    """
    return None if tuned == base else (tuned - without) / (tuned - base)
