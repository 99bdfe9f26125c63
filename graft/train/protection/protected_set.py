"""Protected sets: the coordinates that a training must not move, named directly or as all but a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graft.errors import PatchMismatchError
from graft.patch.compatibility import check_specs
from graft.patch.format.writing import patch_bytes
from graft.patch.live import LiveTarget
from graft.patch.mask import NOTHING, Indices, Mask
from graft.patch.merge import StoredTarget
from graft.patch.region_placement import place_mask
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, same_bits
from graft.tensors.hashing import hash_values
from graft.train.protection.region import ProtectedRegion, find_regions, regions_outside, unite

Masks = Mask | Patch | Sequence[Mask | Patch]


@dataclass(frozen=True, eq=False)
class ProtectedSet:
    """The coordinates that a training must leave bitwise unchanged.

    Attributes:
        include: patches and masks whose coordinates are protected.
        exclude: patches and masks whose coordinates are not protected, although `include` has them.
        train_only: in place of both, the one mask that may move.
        names: of the base's tensors, for `train_only`: tensors that the base lacks train as a whole.
    """

    include: Sequence[Mask | Patch] = ()
    exclude: Sequence[Mask | Patch] = ()
    train_only: Mask | None = None
    names: Sequence[str] = ()

    @classmethod
    def of(cls, masks: Masks, unprotect: Masks = ()) -> ProtectedSet:
        """Make the set from one patch or mask, or several."""
        return cls(_as_list(masks), _as_list(unprotect))

    def __bool__(self) -> bool:
        return bool(self.include) or self.train_only is not None

    def regions(self, model: torch.nn.Module) -> list[ProtectedRegion]:
        """Find its coordinates in a model.

        Raises:
            PatchMismatchError: the model lacks a tensor, or it has another shape.
        """
        if self.train_only is not None:
            return regions_outside(model, self.train_only, self.names)
        return find_regions(model, *self.masks)

    @property
    def masks(self) -> tuple[list[Mask], list[Mask]]:
        """The masks of `include` and those of `exclude`."""
        return [_mask_of(item) for item in self.include], [_mask_of(item) for item in self.exclude]

    def matched_values(self, model: torch.nn.Module) -> str:
        """Name the values that a model holds there: "skill", "base", "skill and base", or "present" values.

        Raises:
            PatchMismatchError: neither a patch's own values nor its base's.
        """
        if self.train_only is not None:
            return "base"
        return _name_values(model, [item for item in self.include if isinstance(item, Patch)])

    def digest(self) -> str | None:
        """Return 64 hex digits that identify the protected set; None where nothing is protected."""
        if not self:
            return None
        digest = hashlib.sha256()
        for group in (self.include, self.exclude, [self.train_only] if self.train_only is not None else []):
            parts = [hashlib.sha256(patch_bytes(item)).hexdigest() for item in group]
            digest.update(f"{' '.join(parts)}\n".encode())
        return digest.hexdigest()


def protected_entries(base: Checkpoint, core: ProtectedSet) -> Mask:
    """Return the coordinates that `include` less `exclude` protects, by the base's names.

    Raises:
        PatchMismatchError: the base lacks a tensor, or has it in another shape.
    """
    if not core.include:
        return Mask.of({}, {})
    target = StoredTarget(base)
    placed = ((place_mask(mask, target, base.path.name, base.tied) for mask in masks) for masks in core.masks)
    return _as_listed(unite(*placed), base)


def refuse_rounding(
    model: torch.nn.Module, base: Checkpoint, core: ProtectedSet, shards_of: torch.dtype | None = None
) -> None:
    """Refuse protected entries whose values a just loaded model does not hold as the base's files do.

    A model is loaded, and saved, in one dtype: an fp32 tensor among bfloat16 ones loses bits before it can be held.

    Args:
        model: just loaded.
        base: its checkpoint.
        core: what is protected.
        shards_of: the dtype of weights that are sharded, and fp32, already (`products_of_shards`).

    Raises:
        PatchMismatchError: naming a tensor and both dtypes.
    """
    if not (protected := protected_entries(base, core)):
        return
    target = LiveTarget(model)
    for name, live in target.match(protected).found.items():
        stored, held = TORCH_DTYPES[base.spec(name).dtype], shards_of or target.tensors[live].dtype
        if torch.promote_types(stored, held) != held:
            raise PatchMismatchError(
                f"protected tensor {name!r} is stored in {stored}, and loaded, trained and saved in {held}, which "
                "rounds its values: use --dtype float32"
            )


def count_free(base: Checkpoint, trained: Iterable[str], core: ProtectedSet) -> dict[str, int]:
    """Count the entries of each tensor of a base that a core leaves free."""
    protected = protected_entries(base, core)
    return {name: base.spec(name).numel - len(protected[name]) for name in trained}


def _as_list(masks: Masks) -> list[Mask | Patch]:
    return [masks] if isinstance(masks, (Mask, Patch)) else list(masks)


def _mask_of(item: Mask | Patch) -> Mask:
    return item.mask if isinstance(item, Patch) else item


def _as_listed(mask: Mask, base: Checkpoint) -> Mask:
    """Return the same entries by the names that a base's files list: experts one by one, or packed."""
    indices: dict[str, Indices] = {}
    for name in mask:
        for stored, _, local in base.locate(name, torch.tensor(mask[name])):
            indices[stored] = np.union1d(indices.get(stored, NOTHING), local.numpy())
    return Mask.of({name: base.spec(name) for name in indices}, indices)


def _name_values(model: torch.nn.Module, patches: Sequence[Patch]) -> str:
    """Name the values there: "skill", "base", or "skill and base" over several patches; "present" without a patch.

    Raises:
        PatchMismatchError: at some tensor the model holds neither, or lacks it.
    """
    target = LiveTarget(model)
    kinds = {_match_values(patch, target, type(model).__name__) for patch in patches}
    return " and ".join(sorted(kinds, reverse=True)) or "present"


def _match_values(patch: Patch, target: LiveTarget, model_name: str) -> str:
    live_names = check_specs(patch.mask.specs, {}, patch.provenance.tied, target, cast=True).require(model_name).names
    kinds = {}  # tensor name -> the kinds that its values match
    for name in patch.mask:
        kinds[name] = _match_tensor(patch, name, target.gather(live_names[name], torch.tensor(patch.mask[name])))
    for kind in ("skill", "base"):
        if all(kind in matched for matched in kinds.values()):
            return kind
    name = next((name for name, matched in kinds.items() if not matched), next(iter(kinds)))
    raise PatchMismatchError(
        f"a patch to protect is neither in {model_name} nor absent from it: tensor {name!r}: the values at its "
        f"{len(patch.mask[name]):,} entries are not all the patch's, and not all the base's; a mask protects any values"
    )


def _match_tensor(patch: Patch, name: str, values: torch.Tensor) -> set[str]:
    narrow = values.to(TORCH_DTYPES[patch.mask.specs[name].dtype])
    if not same_bits(narrow.to(values.dtype), values):  # in a wider dtype than the patch's, and moved since
        return set()
    kinds = {"skill"} if same_bits(narrow, patch.values[name]) else set()
    return kinds | ({"base"} if hash_values(narrow) == patch.base_hashes[name] else set())
