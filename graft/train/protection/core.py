"""What a training must not move: the regions named to be kept, or all but a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graft.errors import ConfigError
from graft.patch.file import patch_bytes
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.train.protection.region import Region, find_regions, freeze_wholes, regions_outside
from graft.train.protection.standing import what_stands


@dataclass(frozen=True, eq=False)
class Core:
    """The core of a training.

    Attributes:
        keep: patches and masks whose coordinates are protected.
        without: patches and masks whose coordinates are not, although `keep` has them.
        only: the one mask that may move, in place of these.
    """

    keep: Sequence[Mask | Patch] = ()
    without: Sequence[Mask | Patch] = ()
    only: Mask | None = None

    def __bool__(self) -> bool:
        return bool(self.keep) or self.only is not None

    def place(self, model: torch.nn.Module, base: Checkpoint) -> tuple[list[Region], str]:
        """The regions in a model, and what they hold; tensors without a free entry take no gradients from now on.

        Raises:
            PatchMismatchError: the model lacks a tensor, or holds neither a patch's values nor the base's.
            ConfigError: nothing is left to train.
        """
        if self.only is not None:
            regions, standing = regions_outside(model, self.only, base.names), "base"
        else:
            standing = what_stands(model, [item for item in self.keep if isinstance(item, Patch)])
            keep, without = ([mask_of(item) for item in items] for items in (self.keep, self.without))
            regions = find_regions(model, keep, without)
        freeze_wholes(regions)
        if not any(weight.requires_grad for weight in model.parameters()):
            raise ConfigError("nothing is left to train: every weight in scope is protected")
        return regions, standing

    def digest(self) -> str | None:
        """64 hex digits that tell one core from another; None where there is none."""
        if not self:
            return None
        whole = hashlib.sha256()
        for group in (self.keep, self.without, [self.only] if self.only is not None else []):
            parts = [hashlib.sha256(patch_bytes(item)).hexdigest() for item in group]
            whole.update(f"{' '.join(parts)}\n".encode())
        return whole.hexdigest()


def mask_of(item: Mask | Patch) -> Mask:
    """The coordinates of either."""
    return item.mask if isinstance(item, Patch) else item
