"""Grafting onto a live model by assignment, and exact revert."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import torch

from graft.errors import CheckpointError, RevertError
from graft.patch.fit import check_fit
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule, stack_patches
from graft.tensors.architecture import architecture_of
from graft.tensors.dtypes import TensorSpec, assign, spec_of, take
from graft.tensors.pieces import is_distributed


class LiveTarget:
    """The parameters and buffers of a model, as a target for `check_fit`."""

    def __init__(self, model: torch.nn.Module) -> None:
        architecture = architecture_of(model)
        self.tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(model.named_buffers(remove_duplicate=False))
        self.names = tuple(self.tensors)
        self.prefix = architecture.prefix
        self.rename: Callable[[str], str] = architecture.rename
        self._owners: dict[tuple[object, ...], str] = {}

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor.

        Raises:
            CheckpointError: it is on the meta device and so has no values.
        """
        if self.tensors[name].is_meta:
            raise CheckpointError(f"tensor {name!r} is on the meta device: load the model's weights first")
        return spec_of(self.tensors[name])

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """The values at flat indices, on the CPU."""
        return take(self.tensors[name], indices).cpu()

    def owner(self, name: str) -> str:
        """One name for all that share a storage: the first that was asked for."""
        tensor = self.tensors[name]
        place: tuple[object, ...] = (id(tensor),)  # a DTensor's piece may be empty, and then lies nowhere
        if not is_distributed(tensor):
            place = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        return self._owners.setdefault(place, name)


@dataclass(frozen=True, eq=False)
class _Saved:
    """What one tensor held before: enough to undo one assignment."""

    tensor: torch.Tensor
    indices: torch.Tensor | None  # on the CPU; None: the whole tensor was replaced
    original: torch.Tensor

    def restore(self) -> None:
        if self.indices is None:
            self.tensor.detach().copy_(self.original)
        else:
            assign(self.tensor, self.indices, self.original)

    def meets(self, other: _Saved) -> bool:
        """Whether both wrote to a common coordinate."""
        if self.tensor.untyped_storage().data_ptr() != other.tensor.untyped_storage().data_ptr():
            return False
        if self.indices is None or other.indices is None:
            return True
        return bool(torch.isin(self.indices, other.indices).any())


_active: list[weakref.ref[Grafted]] = []  # grafts in force, oldest first


class Grafted:
    """A graft in force. `revert()` takes it off bit for bit; as a context manager it does so on leaving.

    Attributes:
        model: the model that carries it.
        k: number of entries assigned, whole tensors not counted.
    """

    def __init__(self, model: torch.nn.Module, saved: list[_Saved], k: int) -> None:
        self.model = model
        self.k = k
        self._saved = saved
        _active.append(weakref.ref(self))

    def revert(self) -> None:
        """Restore every coordinate to the bits it held before, or none.

        Raises:
            RevertError: reverted already, a later graft wrote to a shared coordinate, or the model was cast or
                got other tensors in the meantime.
        """
        if self not in (grafts := list(_in_force())):
            raise RevertError("this graft was reverted already")
        for later in grafts[grafts.index(self) + 1 :]:
            if any(mine.meets(theirs) for mine in self._saved for theirs in later._saved):
                raise RevertError("a later graft wrote to the same coordinates: revert that one first")
        self._check_tensors()
        for saved in reversed(self._saved):  # latest first: two names may share a storage
            saved.restore()
        _active[:] = [reference for reference in _active if reference() not in (self, None)]

    def _check_tensors(self) -> None:
        held = {id(tensor) for tensor in (*self.model.parameters(), *self.model.buffers())}
        for saved in self._saved:
            now, then = saved.tensor.dtype, saved.original.dtype
            if now != then:
                raise RevertError(f"the model was cast from {then} to {now} since the graft")
            if id(saved.tensor) not in held:
                raise RevertError(f"a tensor of shape {list(saved.tensor.shape)} was replaced since the graft")

    def __enter__(self) -> Grafted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _in_force():
            self.revert()


def apply_patch(
    model: torch.nn.Module,
    *patches: Patch,
    on_overlap: OverlapRule = "error",
    cast: bool = False,
    allow_mismatch: bool = False,
) -> Grafted:
    """Graft patches onto a live model, all or nothing.

    Every check (names, shapes, dtypes, the base's values, overlap) runs before the first write.

    Args:
        model: any torch module that holds the base's weights; tied weights are written once.
        patches: one or more.
        on_overlap: what to do where patches want different values.
        cast: accept a model in another dtype; the patch needs stored base values.
        allow_mismatch: do not compare the base's values. Names, shapes and dtypes must still agree.

    Returns:
        A handle that reverts exactly, also usable as `with apply_patch(model, patch): ...`.

    Raises:
        PatchMismatchError: a patch does not fit; tensor and reason are named, nothing was written.
        OverlapError: patches disagree and the rule is "error".
    """
    target = LiveTarget(model)
    fits = [
        check_fit(patch, target, check_base=not allow_mismatch, cast=cast).require(type(model).__name__)
        for patch in patches
    ]
    assignment = stack_patches(patches, fits, on_overlap, target.gather)
    lacking = assignment.dense.keys() - set(target.names)
    if lacking:
        raise CheckpointError(
            f"the patch brings the whole tensor {sorted(lacking)[0]!r}, which {type(model).__name__} lacks: "
            "load the model with the task's head"
        )
    return Grafted(model, _write(target, assignment), len(assignment))


def _write(target: LiveTarget, assignment: Assignment) -> list[_Saved]:
    saved: list[_Saved] = []
    try:
        for name, (indices, values) in assignment.entries.items():
            tensor = target.tensors[name]
            saved.append(_Saved(tensor, indices, take(tensor, indices)))
            assign(tensor, indices, values.to(tensor.dtype))
        for name, whole in assignment.dense.items():
            tensor = target.tensors[name]
            saved.append(_Saved(tensor, None, tensor.detach().clone()))
            tensor.detach().copy_(whole)
    except BaseException:  # out of memory, Ctrl-C: leave the model as it was
        for item in reversed(saved):
            item.restore()
        raise
    return saved


def _in_force() -> Iterator[Grafted]:
    return (graft for reference in _active if (graft := reference()) is not None)
