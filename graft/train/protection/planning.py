"""What protection will take, from headers and masks alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.memory import Part
from graft.tensors.names import match_names
from graft.train.protection.guard import FEW

INDEX = 8  # bytes


@dataclass(frozen=True)
class ProtectionPlan:
    """What `Protection` decides tensor by tensor, for an optimizer that treats every entry by itself.

    Attributes:
        restored: protected entries that are kept and put back.
        compact: free entries of tensors of which nothing else is optimised.
        optimised: entries that the optimizer holds state for.
    """

    restored: int
    compact: int
    optimised: int

    @classmethod
    def of(
        cls,
        base: Checkpoint,
        trained: Iterable[str],
        protect: Sequence[Patch | Mask],
        unprotect: Sequence[Patch | Mask] = (),
    ) -> ProtectionPlan:
        """Of regions over the tensors of a base that train."""
        kept = count_protected(base, protect, unprotect)
        sizes = {name: base.spec(name).numel for name in trained}
        free = {name: size - kept.get(name, 0) for name, size in sizes.items()}
        few = {name for name, size in sizes.items() if free[name] / size < FEW}
        return cls(
            restored=sum(kept.get(name, 0) for name in sizes.keys() - few),
            compact=sum(free[name] for name in few),
            optimised=sum(free[name] if name in few else size for name, size in sizes.items()),
        )

    def parts(self, width: int) -> list[Part]:
        """Memory beside the model; `width` is the bytes of one of its values."""
        return [
            Part("protected values and indices", (width + INDEX) * self.restored),
            Part("free values and indices", (width + INDEX) * self.compact),
        ]


def count_protected(
    base: Checkpoint, protect: Sequence[Patch | Mask], unprotect: Sequence[Patch | Mask] = ()
) -> Mapping[str, int]:
    """Protected entries by the base's tensors; what the base lacks is left to the training, which refuses it."""
    kept = Mask.of({}, {})
    for item in protect:
        kept = kept | _placed(item, base)
    for item in unprotect:
        kept = kept - _placed(item, base)
    return {name: len(kept[name]) for name in kept}


def _placed(item: Patch | Mask, base: Checkpoint) -> Mask:
    """A region by the base's names."""
    mask = item.mask if isinstance(item, Patch) else item
    found = match_names(mask, base.names).found
    there = [name for name in mask if name in found and mask.specs[name].shape == base.spec(found[name]).shape]
    return Mask.of({found[name]: base.spec(found[name]) for name in there}, {found[name]: mask[name] for name in there})
