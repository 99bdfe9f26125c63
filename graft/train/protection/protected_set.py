"""Protected sets: the coordinates that a training must not move, named directly or as all but a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graft.errors import PatchMismatchError
from graft.patch.compatibility import Target, check_specs
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
from graft.train.protection.whole_tensors import entries_of, find_whole_tensors, narrowed

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
        return find_regions(model, *self.masks_on(LiveTarget(model)))

    def masks_on(self, target: Target) -> tuple[list[Mask], list[Mask]]:
        """Return the masks of `include` and those of `exclude` in a model.

        Whole tensors that a patch brings are in `include` where the model holds the patch's values, and in `exclude`
        wherever it has them.
        """
        include = [mask for item in self.include for mask in _masks_of(item, target, held=True)]
        return include, [mask for item in self.exclude for mask in _masks_of(item, target, held=False)]

    def matched_values(self, model: torch.nn.Module) -> str:
        """Name the values that a model holds there: "skill", "base", "skill and base", or "present" values.

        Raises:
            PatchMismatchError: neither a patch's own values nor its base's.
        """
        return "base" if self.train_only is not None else _name_values(model, self._patches)

    def left_free(self, model: torch.nn.Module) -> dict[str, str]:
        """Return the whole tensors that patches to protect bring and a model does not hold: name -> why."""
        target = LiveTarget(model)
        wholes = [find_whole_tensors(patch, target) for patch in self._patches]
        held = {name for whole in wholes for name in whole.held}
        free = {name: fact for whole in wholes for name, fact in whole.free.items()}
        return {name: free[name] for name in sorted(free.keys() - held)}

    @property
    def _patches(self) -> list[Patch]:
        return [item for item in self.include if isinstance(item, Patch)]

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
    groups = core.masks_on(target)
    placed = ((place_mask(mask, target, base.path.name, base.tied) for mask in masks) for masks in groups)
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


def _masks_of(item: Mask | Patch, target: Target, *, held: bool) -> list[Mask]:
    """Return a mask, or a patch's entries and its whole tensors: those whose values the model holds, or all."""
    if isinstance(item, Mask):
        return [item]
    whole = find_whole_tensors(item, target)
    return [entries_of(item, target), whole.held if held else whole.placed]


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
    if any(len(find_whole_tensors(patch, target).held) for patch in patches):
        kinds.add("skill")  # a whole tensor is held in no other values
    return " and ".join(sorted(kinds, reverse=True)) or "present"


def _match_values(patch: Patch, target: LiveTarget, model_name: str) -> str:
    specs = entries_of(patch, target).specs
    live_names = check_specs(specs, {}, patch.provenance.tied, target, cast=True).require(model_name).names
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
    narrow = narrowed(values, TORCH_DTYPES[patch.mask.specs[name].dtype])
    if narrow is None:  # in a wider dtype than the patch's, and moved since
        return set()
    kinds = {"skill"} if same_bits(narrow, patch.values[name]) else set()
    return kinds | ({"base"} if hash_values(narrow) == patch.base_hashes[name] else set())
