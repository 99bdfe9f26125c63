"""What protection will take, from headers and masks alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graft.patch.mask import Mask
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.memory import Part
from graft.tensors.names import match_names
from graft.train.protection.core import Core
from graft.train.protection.guard import FEW
from graft.train.protection.region import unite

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
    def of(cls, base: Checkpoint, trained: Iterable[str], core: Core) -> ProtectionPlan:
        """Of a core over the tensors of a base that train; what the base lacks is left to the training to refuse."""
        kept = unite(*((_placed(mask, base) for mask in masks) for masks in core.masks))
        sizes = {name: base.spec(name).numel for name in trained}
        free = {name: size - len(kept[name]) for name, size in sizes.items()}
        few = {name for name, size in sizes.items() if free[name] / size < FEW}
        return cls(
            restored=sum(len(kept[name]) for name in sizes.keys() - few),
            compact=sum(free[name] for name in few),
            optimised=sum(free[name] if name in few else size for name, size in sizes.items()),
        )

    def parts(self, width: int) -> list[Part]:
        """Memory beside the model; `width` is the bytes of one of its values."""
        return [
            Part("protected values and indices", (width + INDEX) * self.restored),
            Part("free values and indices", (width + INDEX) * self.compact),
        ]


def _placed(mask: Mask, base: Checkpoint) -> Mask:
    """A mask by the base's names."""
    found = match_names(mask, base.names).found
    there = [name for name in mask if name in found and mask.specs[name].shape == base.spec(found[name]).shape]
    return Mask.of({found[name]: base.spec(found[name]) for name in there}, {found[name]: mask[name] for name in there})
