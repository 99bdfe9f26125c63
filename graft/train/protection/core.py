"""What a training must not move: the regions named to be kept, or all but a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.names import match_names
from graft.train.protection.region import Region, find_regions, regions_outside, unite
from graft.train.protection.standing import what_stands

Masks = Mask | Patch | Sequence[Mask | Patch]


@dataclass(frozen=True, eq=False)
class Core:
    """The core of a training.

    Attributes:
        keep: patches and masks whose coordinates are protected.
        without: patches and masks whose coordinates are not, although `keep` has them.
        only: the one mask that may move, in place of these.
        names: of the base's tensors, for `only`: what the base lacks trains as a whole.
    """

    keep: Sequence[Mask | Patch] = ()
    without: Sequence[Mask | Patch] = ()
    only: Mask | None = None
    names: Sequence[str] = ()

    @classmethod
    def of(cls, masks: Masks, unprotect: Masks = ()) -> Core:
        """From one patch or mask, or several."""
        return cls(_as_list(masks), _as_list(unprotect))

    def __bool__(self) -> bool:
        return bool(self.keep) or self.only is not None

    def regions(self, model: torch.nn.Module) -> list[Region]:
        """Its coordinates in a model.

        Raises:
            PatchMismatchError: the model lacks a tensor, or it has another shape.
        """
        if self.only is not None:
            return regions_outside(model, self.only, self.names)
        return find_regions(model, *self.masks)

    @property
    def masks(self) -> tuple[list[Mask], list[Mask]]:
        """Of `keep` and of `without`."""
        return [_mask_of(item) for item in self.keep], [_mask_of(item) for item in self.without]

    def standing(self, model: torch.nn.Module) -> str:
        """What a model holds there: "skill", "base", "skill and base", or "present" values.

        Raises:
            PatchMismatchError: neither a patch's own values nor its base's.
        """
        if self.only is not None:
            return "base"
        return what_stands(model, [item for item in self.keep if isinstance(item, Patch)])

    def digest(self) -> str | None:
        """64 hex digits that tell one core from another; None where there is none."""
        if not self:
            return None
        whole = hashlib.sha256()
        for group in (self.keep, self.without, [self.only] if self.only is not None else []):
            parts = [hashlib.sha256(patch_bytes(item)).hexdigest() for item in group]
            whole.update(f"{' '.join(parts)}\n".encode())
        return whole.hexdigest()


def count_free(base: Checkpoint, trained: Iterable[str], core: Core) -> dict[str, int]:
    """Count the entries of each tensor of a base that a core leaves free."""
    kept = unite(*((_rename(mask, base) for mask in masks) for masks in core.masks))
    return {name: base.spec(name).numel - len(kept[name]) for name in trained}


def _as_list(masks: Masks) -> list[Mask | Patch]:
    return [masks] if isinstance(masks, (Mask, Patch)) else list(masks)


def _mask_of(item: Mask | Patch) -> Mask:
    return item.mask if isinstance(item, Patch) else item


def _rename(mask: Mask, base: Checkpoint) -> Mask:
    """Rename a mask's tensors as the base does; those that the base lacks, or has in another shape, are left out."""
    found = match_names(mask, base.names).found
    there = [name for name in mask if name in found and mask.specs[name].shape == base.spec(found[name]).shape]
    return Mask.of({found[name]: base.spec(found[name]) for name in there}, {found[name]: mask[name] for name in there})
