"""Grafts in force on a live model, each with its exact revert."""

from __future__ import annotations

import weakref
from types import TracebackType

import torch

from graft.errors import RevertError
from graft.patch.in_force import Layer


class Grafted:
    """A graft in force. `revert()` takes it off bit for bit; as a context manager it does so on leaving.

    Whoever drops the handle keeps the graft for good.

    Attributes:
        model: the model that carries it.
        k: number of entries assigned, whole tensors not counted.
    """

    def __init__(self, model: torch.nn.Module, layer: Layer, k: int) -> None:
        self.model = model
        self.k = k
        self._layer = layer
        layer.handle = weakref.ref(self)
        self._finalizer = weakref.finalize(self, layer.let_go)
        self._finalizer.atexit = False

    def revert(self, *, overwrite: bool = False) -> None:
        """Restore every coordinate to the bits it held before, or none.

        Ctrl-C in the meantime is raised once this is done.

        Args:
            overwrite: restore also where something else wrote since: training, a checkpoint that was loaded, or a
                graft whose handle is gone. What that wrote at the graft's coordinates is lost.

        Raises:
            RevertError: reverted already; a coordinate does not hold the graft's bits any more; a later graft wrote
                to a shared coordinate; or the model was cast or got other tensors in the meantime. Nothing was
                written.
        """
        try:
            self._layer.take_off(overwrite=overwrite)
        finally:
            if not self._layer.in_force:
                self._finalizer.detach()

    def __enter__(self) -> Grafted:
        self._layer.entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        except RevertError:
            raise
        except BaseException:  # Ctrl-C, perhaps before signals were held back
            self._leave(error)
            raise

    def _leave(self, error: BaseException | None) -> None:
        if not self._layer.in_force:
            return
        try:
            self.revert()
        except RevertError as refusal:
            self._layer.entered = False
            if error is None:
                raise
            error.add_note(f"the graft is still on the model: {refusal}")  # what went wrong first is what is heard of
