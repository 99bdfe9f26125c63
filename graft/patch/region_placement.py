"""Placement of a patch's or mask's region in a model: the one way in for coordinates without their values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from graft.patch.compatibility import Target, check_compatible, check_specs
from graft.patch.mask import NOTHING, Indices, Mask
from graft.patch.skill_patch import Patch


def place_region(region: Patch | Mask, target: Target, what: str) -> Mask:
    """Return the coordinates of a patch or mask by the base's own names, after all checks.

    A patch must fit as if it were applied: names, shapes, dtypes, and the base's values. A mask knows no values.

    Args:
        region: the patch or mask.
        target: the base.
        what: its name for an error.

    Raises:
        PatchMismatchError: it does not fit; the tensor is named.
    """
    if isinstance(region, Mask):
        return place_mask(region, target, what)
    return _renamed(region.mask, target, check_compatible(region, target).require(what).names)


def place_mask(mask: Mask, target: Target, what: str, tied: Sequence[Collection[str]] = ()) -> Mask:
    """Return the coordinates of a mask by a target's own names; the target may be in another dtype.

    Args:
        mask: the mask.
        target: where its tensors are looked for.
        what: its name for an error.
        tied: names of one tensor each, any of which the target may list.

    Raises:
        PatchMismatchError: it lacks a tensor, or has it in another shape.
    """
    groups = [sorted(names) for names in tied]
    return _renamed(mask, target, check_specs(mask.specs, {}, groups, target, cast=True).require(what).names)


def _renamed(mask: Mask, target: Target, names: Mapping[str, str]) -> Mask:
    placed: dict[str, Indices] = {}
    for name in mask:  # two names of a tied tensor become one
        placed[names[name]] = np.union1d(placed.get(names[name], NOTHING), mask[name])
    return Mask.of({name: target.spec(name) for name in placed}, placed)
