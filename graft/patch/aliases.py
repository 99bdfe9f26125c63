"""One memory under several names: found by storage and byte, whatever the views, their order and their dtypes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from graft.errors import OverlapError
from graft.tensors.dtypes import as_bits, lay_flat
from graft.tensors.live_weight import extent_of
from graft.tensors.shards import local_of

Selection = tuple[str, torch.Tensor, torch.Tensor | None]  # name, tensor, flat indices or None for all of it


@dataclass(frozen=True, eq=False)
class Touch:
    """The memory that a write to a tensor touches.

    Attributes:
        name: of the tensor.
        storage: device and address of the storage.
        width: bytes of an entry.
        start, stop: bytes from the storage's start; nothing outside is touched.
        entries: (k,) int64 on the CPU, the byte at which each entry begins; None: all from start to stop.
    """

    name: str
    storage: tuple[str, int]
    width: int
    start: int
    stop: int
    entries: torch.Tensor | None

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor, indices: torch.Tensor | None = None) -> Touch:
        """Describe the memory of flat row-major indices of a tensor, or of all of it."""
        bits, width = as_bits(tensor.detach()), tensor.element_size()
        storage = storage_of(tensor)
        if indices is None:
            start = width * int(bits.storage_offset())
            return cls(name, storage, width, start, start + width * extent_of(bits), None)
        flat, places = lay_flat(tensor, indices)
        entries = (width * (places + int(flat.storage_offset()))).cpu()
        ends = (int(entries.min()), int(entries.max()) + width) if len(entries) else (0, 0)
        return cls(name, storage, width, *ends, entries)

    def shared(self, other: Touch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (k,) and (m,) bool: which of the entries of each lie in memory that the other touches as well.

        Where one touches all of a range, its side is a single answer.
        """
        mine, theirs = self._slots(other.width), other._slots(self.width)
        if self.storage != other.storage or self.start >= other.stop or other.start >= self.stop:
            return torch.zeros(len(mine), dtype=torch.bool), torch.zeros(len(theirs), dtype=torch.bool)
        if self.entries is None or other.entries is None:
            return self._inside(other), other._inside(self)
        return torch.isin(mine, theirs), torch.isin(theirs, mine)

    def meets(self, other: Touch) -> bool:
        """Return whether some byte is touched by both."""
        return all(bool(side.any()) for side in self.shared(other))

    def _slots(self, width: int) -> torch.Tensor:
        """Return entries by the wider of two widths: memory is aligned, so that an entry lies in one slot."""
        return torch.zeros(1) if self.entries is None else self.entries // max(self.width, width)

    def _inside(self, other: Touch) -> torch.Tensor:
        """Mark the entries, or all of it as one, in which something of what another touches lies."""
        if self.entries is None:
            inside = other.entries is None or bool(other._inside(self).any())
            return torch.tensor([inside])
        return (self.entries + self.width > other.start) & (self.entries < other.stop)


def meet(mine: Iterable[Touch], theirs: Iterable[Touch]) -> bool:
    """Return whether two writes touch a common byte."""
    others: dict[tuple[str, int], list[Touch]] = {}
    for touch in theirs:
        others.setdefault(touch.storage, []).append(touch)
    return any(touch.meets(other) for touch in mine for other in others.get(touch.storage, ()))


def refuse_conflicts(selections: Iterable[Selection], values: Mapping[str, torch.Tensor]) -> None:
    """Refuse to write different bits to one memory under two names.

    Args:
        selections: what is written.
        values: of each the (k,) values of its entries, or all of it.

    Raises:
        OverlapError: naming both tensors.
    """
    by_storage: dict[tuple[str, int], list[Selection]] = {}
    for selection in selections:
        by_storage.setdefault(storage_of(selection[1]), []).append(selection)
    for group in by_storage.values():
        if len(group) == 1:  # as good as always
            continue
        touches = sorted((Touch.of(*selection) for selection in group), key=lambda touch: touch.start)
        for place, one in enumerate(touches):
            after = itertools.islice(touches, place + 1, None)
            for other in itertools.takewhile(lambda later, stop=one.stop: later.start < stop, after):  # type: ignore[misc]
                if one.meets(other) and not _agree(one, values[one.name], other, values[other.name]):
                    raise OverlapError(
                        f"tensors {one.name!r} and {other.name!r} share memory in this model, and would get different "
                        "values there: untie them, or leave one out"
                    )


def storage_of(tensor: torch.Tensor) -> tuple[str, int]:
    """Return device and address of a tensor's storage; a DTensor's own where it has one."""
    return str(tensor.device), local_of(tensor).untyped_storage().data_ptr()


def _agree(one: Touch, first: torch.Tensor, other: Touch, second: torch.Tensor) -> bool:
    """Return whether the shared entries of two touches get the same bits."""
    if one.entries is None or other.entries is None or one.width != other.width:
        return False
    mine, theirs = one.shared(other)
    left, right = one.entries[mine].sort(), other.entries[theirs].sort()
    bits = as_bits(first.cpu())[mine][left.indices], as_bits(second.cpu())[theirs][right.indices]
    return torch.equal(left.values, right.values) and torch.equal(*bits)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Return whether two entries of a strided tensor may share memory, as those of an expanded one do."""
    reach = 0  # of the dimensions so far, in elements
    for stride, n in sorted((stride, n) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += (n - 1) * stride
    return False
