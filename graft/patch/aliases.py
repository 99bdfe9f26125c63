"""Aliases: memory under several names, found by storage and byte, whatever the views, their order and their dtypes.

Two views of one storage of twelve bytes, x of three fp32 entries and y of six bf16 entries, and a write to x[1] and one
to y[1], y[2]:

    byte        0   2   4   6   8   10
    x           0       1       2            x[1] touches bytes 4 to 7
    y           0   1   2   3   4   5        y[1] bytes 2 and 3, y[2] bytes 4 and 5

Entries are compared by the word of the wider dtype that they lie in, 4 bytes here: x[1] lies in word 1, y[1] in word 0,
y[2] in word 1. So x[1] and y[2] share memory.
"""

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
        flat, offsets = lay_flat(tensor, indices)
        entries = (width * (offsets + int(flat.storage_offset()))).cpu()
        ends = (int(entries.min()), int(entries.max()) + width) if len(entries) else (0, 0)
        return cls(name, storage, width, *ends, entries)

    def shared(self, other: Touch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (k,) and (m,) bool: the entries of each that lie in memory that the other touches as well.

        A touch of a whole range has a single answer for all of it.
        """
        own_words, other_words = self._words(other.width), other._words(self.width)
        if self.storage != other.storage or self.start >= other.stop or other.start >= self.stop:
            return torch.zeros(len(own_words), dtype=torch.bool), torch.zeros(len(other_words), dtype=torch.bool)
        if self.entries is None or other.entries is None:
            return self._mark_within(other), other._mark_within(self)
        return torch.isin(own_words, other_words), torch.isin(other_words, own_words)

    def overlaps(self, other: Touch) -> bool:
        """Return whether some byte is touched by both."""
        return all(bool(side.any()) for side in self.shared(other))

    def _words(self, width: int) -> torch.Tensor:
        """Return the word, of the wider of two widths, of each entry: memory is aligned, so that it lies in one."""
        return torch.zeros(1) if self.entries is None else self.entries // max(self.width, width)

    def _mark_within(self, other: Touch) -> torch.Tensor:
        """Mark the entries that lie in another's range; of a range, return one mark, set where the other reaches it."""
        if self.entries is None:
            inside = other.entries is None or bool(other._mark_within(self).any())
            return torch.tensor([inside])
        return (self.entries + self.width > other.start) & (self.entries < other.stop)


def any_overlap(left: Iterable[Touch], right: Iterable[Touch]) -> bool:
    """Return whether two writes touch a common byte."""
    by_storage: dict[tuple[str, int], list[Touch]] = {}
    for touch in right:
        by_storage.setdefault(touch.storage, []).append(touch)
    return any(touch.overlaps(other) for touch in left for other in by_storage.get(touch.storage, ()))


def refuse_conflicts(selections: Iterable[Selection], values: Mapping[str, torch.Tensor]) -> None:
    """Refuse to write different bits to one memory under two names.

    Args:
        selections: the entries that are written.
        values: name -> (k,) values of its entries, or the whole tensor.

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
        for position, touch in enumerate(touches):
            rest = itertools.islice(touches, position + 1, None)
            for other in itertools.takewhile(lambda item, end=touch.stop: item.start < end, rest):  # type: ignore[misc]
                if touch.overlaps(other) and not _agree(touch, values[touch.name], other, values[other.name]):
                    raise OverlapError(
                        f"tensors {touch.name!r} and {other.name!r} share memory in this model, and would get "
                        "different values there: untie them, or leave one out"
                    )


def storage_of(tensor: torch.Tensor) -> tuple[str, int]:
    """Return device and address of a tensor's storage, of a DTensor that of its local shard."""
    return str(tensor.device), local_of(tensor).untyped_storage().data_ptr()


def _agree(one: Touch, first: torch.Tensor, other: Touch, second: torch.Tensor) -> bool:
    """Return whether the shared entries of two touches get the same bits."""
    if one.entries is None or other.entries is None or one.width != other.width:
        return False
    one_shared, other_shared = one.shared(other)
    one_sorted, other_sorted = one.entries[one_shared].sort(), other.entries[other_shared].sort()
    bits = (
        as_bits(first.cpu())[one_shared][one_sorted.indices],
        as_bits(second.cpu())[other_shared][other_sorted.indices],
    )
    return torch.equal(one_sorted.values, other_sorted.values) and torch.equal(*bits)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Return whether two entries of a strided tensor may share memory, as those of an expanded one do."""
    reach = 0  # of the dimensions so far, in elements
    for stride, n in sorted((stride, n) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += (n - 1) * stride
    return False
