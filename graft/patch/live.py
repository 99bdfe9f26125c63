"""Grafting onto a live model by assignment: at once, or fitted once and put on many times."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch

from graft.arguments import checked
from graft.errors import CheckpointError, PatchMismatchError
from graft.files.tensor_spec import TensorSpec
from graft.interrupts import hold_signals
from graft.parallel.refusal import refuse_partitioned
from graft.patch.aliases import refuse_conflicts
from graft.patch.casting import cast_values
from graft.patch.fit import check_fit
from graft.patch.grafted import Grafted
from graft.patch.holding import Holding
from graft.patch.homes import Home, Homes
from graft.patch.in_force import Layer, lock
from graft.patch.places import Entries, Places, WholeTensor, refuse_placeless
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule, stack_patches, with_rows
from graft.tensors.architecture import architecture_of, unwrap_model
from graft.tensors.dtypes import spec_of, take
from graft.tensors.names import NameMatch, match_names
from graft.tensors.packed import find_parts
from graft.tensors.pieces import is_distributed


class LiveTarget:
    """The parameters and buffers of a model, as a target for `check_fit`.

    What files list apart and the model holds packed, such as the matrices of experts, has an entry of its own: a view
    of the packed parameter (`graft.patch.homes` leads back).

    Attributes:
        tensors: name -> parameter, buffer, or view of one.
        names: of all of these.

    Raises:
        ConfigError: another engine has partitioned the parameters, so that no coordinate has a place.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        refuse_partitioned(model)
        architecture = architecture_of(model)
        self._model = model
        self.tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(model.named_buffers(remove_duplicate=False))
        self._parts = find_parts(unwrap_model(model), self.tensors, architecture.packing)
        self.tensors |= {name: part.of(self.tensors[part.owner].detach()) for name, part in self._parts.items()}
        self._rebuilt = architecture.packing.rebuilt
        self.names = (*self.tensors, *sorted(self._rebuilt - self.tensors.keys()))
        self.prefix = architecture.prefix
        self.rename: Callable[[str], str] = architecture.rename
        self.can_resize = False
        self._owners: dict[tuple[object, ...], str] = {}

    def match(self, names: Iterable[str]) -> NameMatch:
        """Match a checkpoint's names to this model's.

        Raises:
            CheckpointError: a tensor has no place of its own in the model.
            MismatchError: a name is ambiguous.
        """
        matched = match_names(names, self.names, prefix=self.prefix, rename=self.rename)
        for name in self._rebuilt.intersection(matched.found.values()):
            self.spec(name)  # refuses it
        return matched

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that take gradients, each tied one once; of a packed one its parts as well."""
        own = [name for name, weight in self._model.named_parameters() if weight.requires_grad]
        return own + [name for name, part in self._parts.items() if part.owner in own]

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor.

        Raises:
            CheckpointError: it has no values, they cannot be written one by one, or it has no place of its own.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"tensor {name!r}: transformers takes it apart when it loads the model, and no single tensor of the "
                "model holds it: work on the files (graft diff, graft apply)"
            )
        refuse_placeless(name, self.tensors[name])
        return spec_of(self.tensors[name])

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """The values at flat indices, on the CPU."""
        return take(self.tensors[name], indices).cpu()

    def owner(self, name: str) -> str:
        """One name for all that share a storage: the first that was asked for."""
        if name not in self.tensors:
            return name
        tensor = self.tensors[name]
        refuse_placeless(name, tensor)
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
        self._k = len(assignment)
        assignment = with_rows(assignment, target.spec)
        whole = {name: target.tensors[name] for name in assignment.dense}
        entries = {name: held for name, held in assignment.entries.items() if name not in whole}
        values = {name: cast_values(held, target.tensors[name].dtype, name) for name, (_, held) in entries.items()}
        values |= {name: cast_values(assignment.dense[name], whole[name].dtype, name) for name in whole}
        spots = [(name, target.tensors[name], indices) for name, (indices, _) in entries.items()]
        refuse_conflicts([*spots, *((name, tensor, None) for name, tensor in whole.items())], values)
        self._entries, self._values = _place_entries(model, spots, values)
        self._places: list[Places] = [*self._entries, *(WholeTensor(name, whole[name]) for name in whole)]
        self._values += [values[name] for name in whole]
        self._expected = [place.read() for place in self._entries]
        self._holding = Holding(model, {name for place in self._places for name in place.tensors})

    def apply(self) -> Grafted:
        """Graft, all or nothing.

        Raises:
            PatchMismatchError: the model holds other bits at the patches' entries than when they were fitted, or was
                cast, moved or got other tensors since; nothing was written.
        """
        grafted = None
        try:
            with hold_signals(), lock:
                grafted = self._put_on()
        except BaseException:  # Ctrl-C that was held back: nobody gets the handle
            if grafted is not None:
                grafted.revert()
            raise
        return grafted

    def _put_on(self) -> Grafted:
        lost = (name for place in self._places if (name := self._holding.lost(place.tensors)))
        moved = (name for place in self._entries if (name := place.moved()))
        for name in itertools.chain(lost, moved):
            raise self._refusal(name, "it was cast, moved or replaced since the patch was fitted: fit it again")
        originals = [place.read() for place in self._places]
        for place, then, now in zip(self._entries, self._expected, originals, strict=False):
            if name := place.differing(then, now):
                raise self._refusal(name, "its values are not those that the patch was fitted to")
        layer = Layer(self._holding, self._places, originals, self._values)
        layer.put_on()
        return Grafted(self._model, layer, self._k)

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
        cast: accept a model in another dtype; the patch needs stored base values. Values that are too large for it, or
            no whole numbers where it takes no others, are refused.
        allow_mismatch: do not compare the base's values. Names, shapes and dtypes must still agree.

    Returns:
        A handle that reverts exactly, also usable as `with apply_patch(model, patch): ...`.

    Raises:
        PatchMismatchError: a patch does not fit; tensor and reason are named, nothing was written.
        OverlapError: patches disagree and the rule is "error", or tensors that share memory would get different values.
        CheckpointError: a tensor is on the meta device, sparse, quantized or expanded.
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
    for patch, fit in zip(patches, fits, strict=True):
        for name, values in (patch.base_values or {}).items():
            cast_values(values, target.tensors[fit.names[name]].dtype, name, "base values")
    assignment = stack_patches(patches, fits, on_overlap, target.gather)
    lacking = assignment.dense.keys() - set(target.names)
    if lacking:
        raise CheckpointError(
            f"the patch brings the whole tensor {sorted(lacking)[0]!r}, which {type(model).__name__} lacks: "
            "load the model with the task's head"
        )
    return Fitted(model, target, assignment)


def _place_entries(
    model: torch.nn.Module,
    spots: Iterable[tuple[str, torch.Tensor, torch.Tensor]],
    values: Mapping[str, torch.Tensor],
) -> tuple[list[Entries], list[torch.Tensor]]:
    """Entries by device and width of bits, since one comparison of such waits for the device once; and their values."""
    homes, found = Homes(model), defaultdict[str, list[tuple[Home, torch.Tensor]]](list)
    for name, tensor, places in spots:
        home = homes.find(name, tensor, places)
        found[home.name].append((home, values[name]))
    groups: dict[tuple[torch.device, int], dict[str, torch.Tensor]] = {}
    for name, parts in found.items():
        tensor = parts[0][0].tensor
        groups.setdefault((tensor.device, tensor.element_size()), {})[name] = tensor
    indices = {name: torch.cat([home.indices for home, _ in parts]) for name, parts in found.items()}
    joined = {name: torch.cat([held for _, held in parts]) for name, parts in found.items()}
    entries = [Entries(tensors, {name: indices[name].to(tensors[name].device) for name in tensors})
               for tensors in groups.values()]  # fmt: skip
    return entries, [place.lay_out(joined) for place in entries]
