"""Grafts in force in this process, oldest first: which lie on which, also where a handle is gone."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence

import torch

from graft.errors import RevertError
from graft.interrupts import finish, hold_signals
from graft.patch.aliases import Touch, any_overlap
from graft.patch.live_tensors import LiveSlot, tensors_of
from graft.patch.module_identity import ModuleIdentity

lock = threading.RLock()  # one for all models, since two may share tensors; held while entries are read and written
_layers: list[Layer] = []


class Layer:
    """The values that one graft wrote, and those that were there before.

    Args:
        identity: tells whether the model still holds the tensors.
        slots: where it wrote.
        originals: the content of each slot before.
        written: the content that it wrote into each.

    Attributes:
        entered: whether a `with` block is to take it off.
        handle: the `Grafted` that can take it off.
    """

    def __init__(
        self,
        identity: ModuleIdentity,
        slots: Sequence[LiveSlot],
        originals: Sequence[torch.Tensor],
        written: Sequence[torch.Tensor],
    ) -> None:
        self.entered = False
        self.handle: weakref.ref[object] | None = None
        self._identity: ModuleIdentity | None = identity
        self._slots, self._originals, self._written = slots, originals, written
        self._traces: list[tuple[str, weakref.ref[torch.Tensor], torch.Tensor | None]] = []

    @property
    def in_force(self) -> bool:
        """True until it is taken off."""
        return self in _layers

    def put_on(self) -> None:
        """Write the values; if that fails, restore what was there."""
        _sweep()
        try:
            write_all(self._slots, self._written)
            _layers.append(self)
        except BaseException:  # out of memory, Ctrl-C: leave the model as it was
            finish(lambda: write_all(self._slots, self._originals))
            raise

    def take_off(self, *, overwrite: bool = False) -> None:
        """Restore everything that was there, or nothing; an interrupt is raised once that is done.

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
        slots = self._current_slots()
        present = [slot.read() for slot in slots]
        if not overwrite:
            self._check_written(slots, present)
        try:
            finish(lambda: self._restore(slots))
        except Exception:
            finish(lambda: write_all(slots, present))
            raise

    def let_go(self) -> None:
        """Release the values once the handle is gone: the graft stays, and those beneath must know where it lies."""
        with hold_signals(), lock:
            if self.entered and self.in_force:  # interrupted on the very threshold of `__exit__`
                with contextlib.suppress(RevertError):
                    self._take_off()
            if self.in_force and not self._traces:
                selections = [selection for slot in self._slots for selection in slot.selections()]
                self._traces = [(name, weakref.ref(tensor), indices) for name, tensor, indices in selections]
                self._identity, self._slots, self._originals, self._written = None, (), (), ()
                _prune()

    def touches(self) -> Iterator[Touch]:
        """Yield the memory that it wrote to, at its present address."""
        for slot in self._slots:
            for name, tensor, indices in slot.selections():
                yield Touch.of(name, tensor, indices)
        for name, reference, indices in self._traces:
            if (alive := reference()) is not None:
                yield Touch.of(name, alive, indices)

    def _check_order(self, overwrite: bool) -> None:
        later = [layer for layer in _layers[_layers.index(self) + 1 :] if not (overwrite and layer._traces)]
        blocking = [layer for layer in later if any_overlap(self.touches(), layer.touches())]
        if any(not layer._traces for layer in blocking):
            raise RevertError("a later graft wrote to the same coordinates: revert that one first")
        if blocking:
            raise RevertError(
                "a later graft, whose handle is gone, wrote to the same coordinates: keep it to revert it first, "
                "or revert(overwrite=True) writes over it"
            )

    def _current_slots(self) -> list[LiveSlot]:
        slots = [slot.at_present() for slot in self._slots]
        if self._identity and (lost := self._identity.lost(tensors_of(slots))):
            raise RevertError(f"tensor {lost!r} was replaced since the graft")
        return slots

    def _check_written(self, slots: Sequence[LiveSlot], present: Sequence[torch.Tensor]) -> None:
        for slot, written, now in zip(slots, self._written, present, strict=True):
            if name := slot.differing(written.to(now.device), now):
                raise RevertError(
                    f"tensor {name!r} does not hold the graft's values any more: it was trained, loaded or otherwise "
                    "changed since; revert(overwrite=True) writes the saved values over that"
                )

    def _restore(self, slots: Sequence[LiveSlot]) -> None:
        write_all(slots, self._originals)
        if self.in_force:
            _layers.remove(self)
        _prune()


def write_all(slots: Iterable[LiveSlot], contents: Iterable[torch.Tensor]) -> None:
    """Write into every slot its content, as `read` gave it."""
    for slot, content in zip(slots, contents, strict=True):
        slot.write(content)


def _sweep() -> None:
    """Release layers whose handle is gone but whose finalizer was interrupted by Ctrl-C."""
    for layer in list(_layers):
        if layer.handle is not None and layer.handle() is None:
            layer.let_go()


def _prune() -> None:
    """Forget released layers that have no other layer beneath them."""
    while _layers and _layers[0]._traces:
        del _layers[0]
