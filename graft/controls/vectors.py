"""The part of a patch that lies outside matrices, alone."""

from __future__ import annotations

import dataclasses

import torch

from graft.controls.inputs import ControlInput
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import take
from graft.tensors.hashing import hash_values


def keep_vectors(inputs: ControlInput) -> Patch:
    """Keep the entries in biases, norms and other tensors that are no matrix, and whole tensors such as a head."""
    return keep_tensors(inputs, inputs.vectors)


def keep_tensors(inputs: ControlInput, names: tuple[str, ...]) -> Patch:
    """Keep the patch's entries in some tensors, and its whole tensors.

    Where those hold none, one entry of the patch is kept at the base's value: a patch has at least one, whole tensors
    go with it, and this one changes nothing.
    """
    patch, provenance = inputs.patch, inputs.describe()
    if not names:
        name = next(iter(patch.mask))
        one = patch.mask[name][:1]
        value = take(inputs.pair.base.read(name), torch.tensor(one))
        mask = Mask.of(patch.mask.specs, {name: one})
        return Patch(mask, {name: value}, {name: hash_values(value)}, provenance, dense=patch.dense)
    mask = Mask.of(patch.mask.specs, {name: patch.mask[name] for name in names})
    return dataclasses.replace(
        patch,
        mask=mask,
        values={name: patch.values[name] for name in mask},
        base_hashes={name: patch.base_hashes[name] for name in mask},
        base_values=None,
        provenance=provenance,
    )
