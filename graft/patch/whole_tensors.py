"""Whole tensors, such as a classifier head: of a patch without its entries, and of a pair in a live model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from graft.errors import MismatchError
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.hashing import hash_values
from graft.tensors.pair import CheckpointPair

ReadBase = Callable[[str, torch.Tensor], torch.Tensor]


def keep_whole_tensors(patch: Patch, read: ReadBase) -> Patch:
    """Return a patch that brings the whole tensors of another, and changes nothing else.

    A patch has at least one entry: one is kept, at the base's value.

    Args:
        patch: the other.
        read: gives the base's values, on the CPU, at a tensor's name and flat indices.
    """
    name = next(iter(patch.mask))
    one = patch.mask[name][:1]
    value = read(name, torch.tensor(one))
    mask = Mask.of(patch.mask.specs, {name: one})
    return dataclasses.replace(
        patch, mask=mask, values={name: value}, base_hashes={name: hash_values(value)}, base_values=None
    )


def match_whole_tensors(target: LiveTarget, pair: CheckpointPair) -> dict[str, torch.Tensor]:
    """Match what a graft would replace whole: the tensors that only the tuned checkpoint has, or has in another size.

    Returns:
        The name in a patch -> the live tensor, of those that the model has, under whichever name.

    Raises:
        MismatchError: the model has one in another size than the tuned checkpoint.
    """
    found = {name: target.tensors[own] for name, own in target.match([*pair.extra, *pair.replaced]).found.items()}
    for name, tensor in found.items():
        if tensor.shape != pair.tuned.spec(pair.replaced.get(name, name)).shape:
            raise MismatchError(f"tensor {name!r} of the model has another size: load it with the task's head")
    return found
