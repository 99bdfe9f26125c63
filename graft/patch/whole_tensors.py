"""A patch's whole tensors, such as a classifier head, without its entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.hashing import hash_values

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
