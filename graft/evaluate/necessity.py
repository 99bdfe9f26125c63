"""Necessity: what is left of the skill when its region alone goes back to the base.

A graft shows that the region suffices; the tuned model with the base's values in the region shows whether it is
needed. A region can suffice and not be needed where tuning stored the skill more than once.
"""

from __future__ import annotations

from pathlib import Path

import torch

from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import take
from graft.tensors.location import locate
from graft.tensors.pair import CheckpointPair
from graft.tensors.prints import print_of


def cut_removal(base: str | Path, tuned: str | Path, mask: Mask) -> Patch:
    """The patch that, applied to the tuned model, puts the base's values back at the mask.

    It holds no whole tensors: a classifier head that only the tuned model has stays on it. It belongs to the tuned
    model, and is not meant to be saved.

    Raises:
        BudgetError: the mask is empty.
        MismatchError, CheckpointError: the checkpoints do not fit together or cannot be read.
    """
    pair = CheckpointPair.open(locate(base).path, locate(tuned).path)
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
