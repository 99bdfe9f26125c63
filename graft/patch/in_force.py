"""The grafts in force in this process, oldest first: which lie on which, also where a handle is gone."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence

import torch

from graft.errors import RevertError
from graft.interrupts import finish, hold_signals
from graft.patch.aliases import Touch, meet
from graft.patch.live_tensors import LiveTensors
from graft.patch.module_identity import ModuleIdentity

lock = threading.RLock()  # one for all models, since two may share tensors; held while entries are read and written
_layers: list[Layer] = []


class Layer:
    """The values that one graft wrote, and those that were there before.

    Args:
        holding: the model's hold on the tensors.
        places: where it wrote.
        originals: what was there, of each place.
        written: what it put there.

    Attributes:
        entered: whether a `with` block is to take it off.
        handle: who can.
    """

    def __init__(
        self,
        holding: ModuleIdentity,
        places: Sequence[LiveTensors],
        originals: Sequence[torch.Tensor],
        written: Sequence[torch.Tensor],
    ) -> None:
        self.entered = False
        self.handle: weakref.ref[object] | None = None
        self._holding: ModuleIdentity | None = holding
        self._places, self._originals, self._written = places, originals, written
        self._left: list[tuple[str, weakref.ref[torch.Tensor], torch.Tensor | None]] = []

    @property
    def in_force(self) -> bool:
        """True until it is taken off."""
        return self in _layers

    def put_on(self) -> None:
        """Write; if that fails, put back what was there."""
        _sweep()
        try:
            write_all(self._places, self._written)
            _layers.append(self)
        except BaseException:  # out of memory, Ctrl-C: leave the model as it was
            finish(lambda: write_all(self._places, self._originals))
            raise

    def take_off(self, *, overwrite: bool = False) -> None:
        """Restore what was there, or nothing; an interrupt is let out when it is done.

        Raises:
            RevertError: as `Grafted.revert` says.
        """
        with hold_signals(), lock:
            _sweep()
            self._take_off(overwrite)

    def _take_off(self, overwrite: bool = False) -> None:
        if not self.in_force:
            raise RevertError("this graft was reverted already")
        self._check_order(overwrite)
        places = self._places_now()
        found = [place.read() for place in places]
        if not overwrite:
            self._check_written(places, found)
        try:
            finish(lambda: self._restore(places))
        except Exception:
            finish(lambda: write_all(places, found))
            raise

    def let_go(self) -> None:
        """Let go of its handle: nobody can take it off any more, but those beneath must know where it lies."""
        with hold_signals(), lock:
            if self.entered and self.in_force:  # interrupted on the very threshold of `__exit__`
                with contextlib.suppress(RevertError):
                    self._take_off()
            if self.in_force and not self._left:
                selections = [selection for place in self._places for selection in place.selections()]
                self._left = [(name, weakref.ref(tensor), indices) for name, tensor, indices in selections]
                self._holding, self._places, self._originals, self._written = None, (), (), ()
                _prune()

    def touches(self) -> Iterator[Touch]:
        """Yield the memory that it wrote to, where it lies now."""
        for place in self._places:
            for name, tensor, indices in place.selections():
                yield Touch.of(name, tensor, indices)
        for name, reference, indices in self._left:
            if (left := reference()) is not None:
                yield Touch.of(name, left, indices)

    def _check_order(self, overwrite: bool) -> None:
        later = [layer for layer in _layers[_layers.index(self) + 1 :] if not (overwrite and layer._left)]
        blocking = [layer for layer in later if meet(self.touches(), layer.touches())]
        if any(not layer._left for layer in blocking):
            raise RevertError("a later graft wrote to the same coordinates: revert that one first")
        if blocking:
            raise RevertError(
                "a later graft, whose handle is gone, wrote to the same coordinates: keep it to revert it first, "
                "or revert(overwrite=True) writes over it"
            )

    def _places_now(self) -> list[LiveTensors]:
        places = [place.at_present() for place in self._places]
        for place in places:
            if self._holding and (lost := self._holding.lost(place.tensors)):
                raise RevertError(f"tensor {lost!r} was replaced since the graft")
        return places

    def _check_written(self, places: Sequence[LiveTensors], found: Sequence[torch.Tensor]) -> None:
        for place, written, now in zip(places, self._written, found, strict=True):
            if name := place.differing(written.to(now.device), now):
                raise RevertError(
                    f"tensor {name!r} does not hold the graft's values any more: it was trained, loaded or otherwise "
                    "changed since; revert(overwrite=True) writes the saved values over that"
                )

    def _restore(self, places: Sequence[LiveTensors]) -> None:
        write_all(places, self._originals)
        if self.in_force:
            _layers.remove(self)
        _prune()


def write_all(places: Iterable[LiveTensors], held: Iterable[torch.Tensor]) -> None:
    """Write to all places what was read from each."""
    for place, content in zip(places, held, strict=True):
        place.write(content)


def _sweep() -> None:
    """Let go where a handle is gone and Ctrl-C came while Python saw to that."""
    for layer in list(_layers):
        if layer.handle is not None and layer.handle() is None:
            layer.let_go()


def _prune() -> None:
    """Forget what was left behind with nothing beneath it."""
    while _layers and _layers[0]._left:
        del _layers[0]
