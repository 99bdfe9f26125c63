"""The part of a patch that lies outside matrices, alone."""

from __future__ import annotations

import dataclasses

from graft.controls.inputs import ControlInput
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.patch.whole_tensors import keep_whole_tensors
from graft.tensors.dtypes import take


def keep_vectors(inputs: ControlInput) -> Patch:
    """Keep the entries in biases, norms and other tensors that are no matrix, and whole tensors such as a head."""
    return keep_tensors(inputs, inputs.vectors)


def keep_tensors(inputs: ControlInput, names: tuple[str, ...]) -> Patch:
    """Keep the patch's entries in some tensors, and its whole tensors.

    Where those hold none, the whole tensors are kept alone (`graft.patch.whole_tensors`).
    """
    patch, provenance = inputs.patch, inputs.describe()
    if not names:
        whole = keep_whole_tensors(patch, lambda name, indices: take(inputs.pair.base.read(name), indices))
        return dataclasses.replace(whole, provenance=provenance)
    mask = Mask.of(patch.mask.specs, {name: patch.mask[name] for name in names})
    return dataclasses.replace(
        patch,
        mask=mask,
        values={name: patch.values[name] for name in mask},
        base_hashes={name: patch.base_hashes[name] for name in mask},
        base_values=None,
        provenance=provenance,
    )
