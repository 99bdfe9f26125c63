"""Grafting onto a live model by assignment: at once, or fitted once and put on many times."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from graft.arguments import checked
from graft.errors import CheckpointError, PatchMismatchError
from graft.parallel.refusal import refuse_partitioned
from graft.patch.fit import check_fit
from graft.patch.grafted import Grafted, write_all
from graft.patch.holding import Holding
from graft.patch.places import Entries, Places, WholeTensor
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule, stack_patches
from graft.tensors.architecture import architecture_of
from graft.tensors.dtypes import DTYPE_NAMES, TensorSpec, spec_of, take
from graft.tensors.pieces import is_distributed


class LiveTarget:
    """The parameters and buffers of a model, as a target for `check_fit`.

    Raises:
        ConfigError: another engine has partitioned the parameters, so that no coordinate has a place.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        refuse_partitioned(model)
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
            CheckpointError: it is on the meta device and so has no values, or is of a layout or dtype of no file.
        """
        if self.tensors[name].is_meta:
            raise CheckpointError(f"tensor {name!r} is on the meta device: load the model's weights first")
        layout, dtype = self.tensors[name].layout, self.tensors[name].dtype
        if layout != torch.strided or dtype not in DTYPE_NAMES:
            kind = dtype if layout == torch.strided else layout
            raise CheckpointError(
                f"tensor {name!r} is of {kind}, which no checkpoint's file holds: no patch can fit it"
            )
        return spec_of(self.tensors[name])

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """The values at flat indices, on the CPU."""
        return take(self.tensors[name], indices).cpu()

    def owner(self, name: str) -> str:
        """One name for all that share a storage: the first that was asked for."""
        tensor = self.tensors[name]
        place: tuple[object, ...] = (id(tensor),)  # a DTensor's piece may be empty, and then lies nowhere
        if not is_distributed(tensor) and tensor.layout == torch.strided:
            place = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        return self._owners.setdefault(place, name)


class Fitted:
    """Patches that were found to fit a model, ready to be put on and taken off again and again.

    Names, indices, values and the bits that the model held are in place, so that `apply` costs little more than to read
    and write its entries once each. It holds on to the model's memory: after a cast or a move drop it, and fit anew.
    """

    def __init__(self, model: torch.nn.Module, target: LiveTarget, assignment: Assignment) -> None:
        self._model = model
        self._entries, values = _place_entries(target, assignment)
        whole = [WholeTensor(name, target.tensors[name]) for name in assignment.dense]
        self._places: list[Places] = [*self._entries, *whole]
        self._values = [*values, *assignment.dense.values()]
        self._expected = [place.read() for place in self._entries]
        self._holding = Holding(model, {name for place in self._places for name in place.tensors})
        self._k = len(assignment)

    def apply(self) -> Grafted:
        """Graft, all or nothing.

        Raises:
            PatchMismatchError: the model holds other bits at the patches' entries than when they were fitted, or was
                cast, moved or got other tensors since; nothing was written.
        """
        lost = (name for place in self._places if (name := self._holding.lost(place.tensors)))
        moved = (name for place in self._entries if (name := place.moved()))
        for name in itertools.chain(lost, moved):
            raise self._refusal(name, "it was cast, moved or replaced since the patch was fitted: fit it again")
        originals = [place.read() for place in self._places]
        for place, then, now in zip(self._entries, self._expected, originals, strict=False):
            if name := place.differing(then, now):
                raise self._refusal(name, "its values are not those that the patch was fitted to")
        try:
            write_all(self._places, self._values)
        except BaseException:  # out of memory, Ctrl-C: leave the model as it was
            write_all(self._places, originals)
            raise
        return Grafted(self._model, self._holding, self._places, originals, self._k)

    def forget(self) -> None:
        """Let go of the model's memory; a graft in force can still be taken off."""
        for place in self._entries:
            place.forget()

    def _refusal(self, name: str, fact: str) -> PatchMismatchError:
        return PatchMismatchError(f"the patch does not fit {type(self._model).__name__} now: tensor {name!r}: {fact}")


@checked
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
        ConfigError: the model is partitioned by DeepSpeed ZeRO-3 or FSDP1.
    """
    fitted = fit_patch(model, *patches, on_overlap=on_overlap, cast=cast, allow_mismatch=allow_mismatch)
    grafted = fitted.apply()
    fitted.forget()
    return grafted


@checked
def fit_patch(
    model: torch.nn.Module,
    *patches: Patch,
    on_overlap: OverlapRule = "error",
    cast: bool = False,
    allow_mismatch: bool = False,
) -> Fitted:
    """Check patches against a live model once, for grafts that come and go: `with fitted.apply(): ...`.

    Nothing is written. Arguments and errors are those of `apply_patch`; with `allow_mismatch` too the model must hold
    the same bits at each `apply` as it does now.
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
    return Fitted(model, target, assignment)


def _place_entries(target: LiveTarget, assignment: Assignment) -> tuple[list[Entries], list[torch.Tensor]]:
    """Entries by device and width of bits, since one comparison of such waits for the device once; and their values."""
    groups: dict[tuple[torch.device, int], list[str]] = {}
    for name in assignment.entries:
        tensor = target.tensors[name]
        groups.setdefault((tensor.device, tensor.element_size()), []).append(name)
    indices = {name: found.to(target.tensors[name].device) for name, (found, _) in assignment.entries.items()}
    values = {name: found for name, (_, found) in assignment.entries.items()}
    entries = [Entries({name: target.tensors[name] for name in names}, indices) for names in groups.values()]
    return entries, [place.lay_out(values) for place in entries]
