"""Protected coordinates of a live model's tensors, listed directly or by the free ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graft.errors import ConfigError
from graft.patch.live import LiveTarget
from graft.patch.mask import NOTHING, Indices, Mask
from graft.patch.region_placement import place_mask
from graft.tensors.live_weight import Owners
from graft.tensors.shards import local_of, shard_of


@dataclass(frozen=True, eq=False)
class ProtectedRegion:
    """The protected coordinates of one tensor, which may be sharded over processes (a DTensor).

    Attributes:
        name: in the live model.
        tensor: parameter or buffer.
        indices: (k,) int64 sorted unique flat indices of the whole tensor.
        inverted: the indices are the free ones, and all others are protected.
    """

    name: str
    tensor: torch.Tensor
    indices: Indices
    inverted: bool = False

    @property
    def k(self) -> int:
        """Number of protected entries, those on other processes too."""
        return self.tensor.numel() - len(self.indices) if self.inverted else len(self.indices)

    @property
    def free_share(self) -> float:
        """Share of the tensor's entries that may move."""
        return 1 - self.k / self.tensor.numel()

    @property
    def local(self) -> torch.Tensor:
        """The entries that this process holds: the tensor, or its shard, sharing the memory."""
        return local_of(self.tensor)

    def protected(self) -> torch.Tensor:
        """Return (m,) int64 flat indices of protected entries in `local`, on its device."""
        return self._local_indices(complement=self.inverted)

    def free(self) -> torch.Tensor:
        """Return (n - m,) int64 flat indices in `local` of what may move, on its device."""
        return self._local_indices(complement=not self.inverted)

    def _local_indices(self, *, complement: bool) -> torch.Tensor:
        _, indices = shard_of(self.tensor).locate(torch.tensor(self.indices))
        if complement:
            others = torch.ones(self.local.numel(), dtype=torch.bool)
            others[indices] = False
            indices = others.nonzero().view(-1)
        return indices.to(self.local.device)


def find_regions(model: torch.nn.Module, masks: Sequence[Mask], exclude: Sequence[Mask] = ()) -> list[ProtectedRegion]:
    """Find the union of masks, less others, as regions of a live model.

    Raises:
        PatchMismatchError: the model lacks a tensor, or it has another shape.
        CheckpointError: the model is on the meta device.
    """
    target, model_name = LiveTarget(model), type(model).__name__
    placed = [[_place(mask, target, Owners(model), model_name) for mask in group] for group in (masks, exclude)]
    protected = unite(*placed)
    return [ProtectedRegion(name, target.tensors[name], protected[name]) for name in protected]


def unite(masks: Iterable[Mask], exclude: Iterable[Mask]) -> Mask:
    """Unite masks, less others, all by the same tensor names."""
    union = Mask.of({}, {})
    for mask in masks:
        union = union | mask
    for mask in exclude:
        union = union - mask
    return union


def regions_outside(model: torch.nn.Module, mask: Mask, names: Sequence[str]) -> list[ProtectedRegion]:
    """Find all entries outside a mask: the others of its tensors, and all of the base's other tensors.

    Args:
        model: weights that do not require gradients are left out, and so are those that the base lacks.
        mask: what may move, by the base's names.
        names: of the base's tensors.
    """
    target = LiveTarget(model)
    trained = {name: mask[listed] for name, listed in target.match_trained(names).items()}
    free = _in_owners(trained, target, Owners(model))
    return [ProtectedRegion(owner, target.tensors[owner], indices, inverted=True) for owner, indices in free.items()]


def freeze_protected(model: torch.nn.Module, regions: Sequence[ProtectedRegion]) -> None:
    """Turn off gradients of tensors that are protected as a whole, which saves their part of the backward pass.

    Raises:
        ConfigError: nothing is left to train.
    """
    for region in regions:
        if region.k == region.tensor.numel() and region.tensor.is_leaf:
            region.tensor.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError("nothing is left to train: every weight in scope is protected")


def _place(mask: Mask, target: LiveTarget, owners: Owners, model_name: str) -> Mask:
    """Map a mask to the parameters and buffers that hold its entries."""
    placed = _in_owners(place_mask(mask, target, model_name).indices, target, owners)
    return Mask.of({name: target.spec(name) for name in placed}, placed)


def _in_owners(by_name: Mapping[str, Indices], target: LiveTarget, owners: Owners) -> dict[str, Indices]:
    """Map coordinates to the parameters and buffers that hold them: parts of a packed one come together."""
    placed: dict[str, Indices] = {}
    for name, indices in by_name.items():
        owned = owners.entries(name, target.tensors[name], torch.tensor(indices))
        placed[owned.name] = np.union1d(placed.get(owned.name, NOTHING), owned.indices.numpy())
    return placed
