"""A graft in force on a live model, and taking it off exactly."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import torch

from graft.errors import RevertError
from graft.patch.holding import Holding
from graft.patch.places import Places, meet

_active: list[weakref.ref[Grafted]] = []  # grafts in force, oldest first


class Grafted:
    """A graft in force. `revert()` takes it off bit for bit; as a context manager it does so on leaving.

    Attributes:
        model: the model that carries it.
        k: number of entries assigned, whole tensors not counted.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        holding: Holding,
        places: Sequence[Places],
        originals: Sequence[torch.Tensor],
        k: int,
    ) -> None:
        self.model = model
        self.k = k
        self._holding = holding
        self._places = places
        self._originals = originals
        _active.append(weakref.ref(self))

    def revert(self) -> None:
        """Restore every coordinate to the bits it held before, or none.

        Raises:
            RevertError: reverted already, a later graft wrote to a shared coordinate, or the model was cast or
                got other tensors in the meantime.
        """
        if self not in (grafts := list(_in_force())):
            raise RevertError("this graft was reverted already")
        if any(meet(self._places, later._places) for later in grafts[grafts.index(self) + 1 :]):
            raise RevertError("a later graft wrote to the same coordinates: revert that one first")
        places = [place.at_present() for place in self._places]
        for place in places:
            if lost := self._holding.lost(place.tensors):
                raise RevertError(f"tensor {lost!r} was replaced since the graft")
        write_all(places, self._originals)
        _active[:] = [reference for reference in _active if reference() not in (self, None)]

    def __enter__(self) -> Grafted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _in_force():
            self.revert()


def write_all(places: Iterable[Places], held: Iterable[torch.Tensor]) -> None:
    """Write to all places what was read from each."""
    for place, content in zip(places, held, strict=True):
        place.write(content)


def _in_force() -> Iterator[Grafted]:
    return (graft for reference in _active if (graft := reference()) is not None)
