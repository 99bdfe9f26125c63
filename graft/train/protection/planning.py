"""Memory that protection will take, from headers and masks alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graft.patch.mask import Mask
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.memory import Part
from graft.tensors.names import NameMap
from graft.train.protection.guard import FEW
from graft.train.protection.protected_set import ProtectedSet
from graft.train.protection.region import unite

INDEX = 8  # bytes


@dataclass(frozen=True)
class ProtectionPlan:
    """The decisions of `Protection`, tensor by tensor, for an optimizer that treats every entry by itself.

    Attributes:
        restored: protected entries that are kept and put back.
        compact: free entries of tensors of which nothing else is optimised.
        optimised: entries that the optimizer holds state for.
    """

    restored: int
    compact: int
    optimised: int

    @classmethod
    def of(cls, base: Checkpoint, trained: Iterable[str], core: ProtectedSet) -> ProtectionPlan:
        """Plan for a core over the tensors of a base that train; the training refuses what the base lacks."""
        free = count_free(base, trained, core)
        sizes = {name: base.spec(name).numel for name in free}
        few = {name for name, size in sizes.items() if free[name] / size < FEW}
        return cls(
            restored=sum(size - free[name] for name, size in sizes.items() if name not in few),
            compact=sum(free[name] for name in few),
            optimised=sum(free[name] if name in few else size for name, size in sizes.items()),
        )

    def parts(self, width: int) -> list[Part]:
        """List the memory beside the model; `width` is the bytes of one of its values."""
        return [
            Part("protected values and indices", (width + INDEX) * self.restored),
            Part("free values and indices", (width + INDEX) * self.compact),
        ]


def count_free(base: Checkpoint, trained: Iterable[str], core: ProtectedSet) -> dict[str, int]:
    """Count the entries of each tensor of a base that a core leaves free."""
    kept = unite(*((_placed(mask, base) for mask in masks) for masks in core.masks))
    return {name: base.spec(name).numel - len(kept[name]) for name in trained}


def _placed(mask: Mask, base: Checkpoint) -> Mask:
    """Rename a mask by the base's names."""
    own = NameMap().match(mask, base.names).found
    there = [name for name in mask if name in own and mask.specs[name].shape == base.spec(own[name]).shape]
    return Mask.of({own[name]: base.spec(own[name]) for name in there}, {own[name]: mask[name] for name in there})
