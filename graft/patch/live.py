"""Graft onto a live model by assignment: at once, or prepared once and applied many times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from graft.arguments import checked
from graft.errors import CheckpointError, PatchMismatchError
from graft.files.tensor_spec import TensorSpec
from graft.interrupts import hold_signals
from graft.parallel.supported_wrappers import refuse_partitioned
from graft.patch.aliases import refuse_conflicts
from graft.patch.casting import cast_values
from graft.patch.compatibility import check_compatible
from graft.patch.grafted import Grafted
from graft.patch.in_force import Layer, lock
from graft.patch.live_tensors import LiveEntries, LiveSlot, WholeTensor, refuse_unwritable, tensors_of
from graft.patch.module_identity import ModuleIdentity
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment, OverlapRule, stack_patches, with_rows
from graft.tensors.architecture import architecture_of, unwrap_model
from graft.tensors.dtypes import spec_of, take
from graft.tensors.live_weight import OwnedEntries, Owners, find_parts
from graft.tensors.names import NameMatch
from graft.tensors.new_weights import find_new
from graft.tensors.shards import is_distributed


class LiveTarget:
    """The parameters and buffers of a model, as a target for `check_compatible`.

    What files list apart and the model holds packed, such as the matrices of experts, has an entry of its own: a view
    of the packed parameter (`graft.tensors.live_weight.Owners` leads back).

    Attributes:
        tensors: name -> parameter, buffer, or view of one.
        names: of all of these.

    Raises:
        ConfigError: another engine has partitioned the parameters, so that they no longer hold single coordinates.
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
        self.name_map = architecture.name_map
        self.can_resize = False
        self._owners: dict[tuple[object, ...], str] = {}

    def match(self, names: Iterable[str]) -> NameMatch:
        """Match a checkpoint's names to this model's.

        Raises:
            CheckpointError: no single tensor of the model holds it.
            MismatchError: a name is ambiguous.
        """
        matched = self.name_map.match(names, self.names)
        for name in self._rebuilt.intersection(matched.found.values()):
            self.spec(name)  # refuses it
        return matched

    def require(self, names: Sequence[str], fact: str) -> dict[str, torch.Tensor]:
        """Return the live tensors of a checkpoint's names; `fact` says of a lacking one what it is wanted for.

        Raises:
            PatchMismatchError: the model lacks one.
            CheckpointError, MismatchError: as `match`.
        """
        match = self.match(names)
        if match.missing:
            raise PatchMismatchError(f"tensor {match.missing[0]!r} {fact}, but the task's model does not have it")
        return {name: self.tensors[match.found[name]] for name in names}

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that take gradients, each tied one once; of a packed one its parts as well."""
        own = [name for name, weight in self._model.named_parameters() if weight.requires_grad]
        return own + [name for name, part in self._parts.items() if part.owner in own]

    def match_trained(self, names: Iterable[str]) -> dict[str, str]:
        """Match those that take gradients to a checkpoint's names: name here -> the checkpoint's.

        A tied one is found under whichever of its names the checkpoint lists; those that it lacks are left out, and
        new ones, which only have the name of one of its tensors.

        Raises:
            CheckpointError, MismatchError: as `match`.
        """
        listed = {live: name for name, live in self.match(names).found.items()}
        by_tensor = {id(self.tensors[live]): name for live, name in reversed(listed.items()) if live in self.tensors}
        new = find_new(self._model)
        found = {
            name: listed.get(name, by_tensor.get(id(self.tensors[name]))) for name in self.trained if name not in new
        }
        return {name: match for name, match in found.items() if match is not None}

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor.

        Raises:
            CheckpointError: it has no values, they cannot be written one by one, or no single tensor holds it.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"tensor {name!r}: transformers takes it apart when it loads the model, and no single tensor of the "
                "model holds it: work on the files (graft diff, graft apply)"
            )
        refuse_unwritable(name, self.tensors[name])
        return spec_of(self.tensors[name])

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """Return the values at flat indices, on the CPU."""
        return take(self.tensors[name], indices).cpu()

    def owner(self, name: str) -> str:
        """Return one name for all that share a storage: the first that was asked for."""
        if name not in self.tensors:
            return name
        tensor = self.tensors[name]
        refuse_unwritable(name, tensor)
        memory_key: tuple[object, ...] = (id(tensor),)  # a DTensor's shard may be empty, without an address
        if not is_distributed(tensor) and tensor.layout == torch.strided:
            memory_key = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        return self._owners.setdefault(memory_key, name)


class PreparedPatch:
    """Patches that were found to fit a model, ready to be applied and reverted again and again.

    Names, indices, values and the model's present bits are at hand, so that `apply` costs little more than reading and
    writing each entry once. It holds on to the model's memory: drop it after a cast or a move.
    """

    def __init__(self, model: torch.nn.Module, target: LiveTarget, assignment: Assignment) -> None:
        self._model = model
        self._k = len(assignment)
        assignment = with_rows(assignment, target.spec)
        whole_tensors = {name: target.tensors[name] for name in assignment.dense}
        entries = {name: content for name, content in assignment.entries.items() if name not in whole_tensors}
        new = {**{name: content for name, (_, content) in entries.items()}, **assignment.dense}
        values = {name: cast_values(content, target.tensors[name].dtype, name) for name, content in new.items()}
        selections = [(name, target.tensors[name], indices) for name, (indices, _) in entries.items()]
        refuse_conflicts([*selections, *((name, tensor, None) for name, tensor in whole_tensors.items())], values)
        self._entries, self._values = _group_entries(model, selections, values)
        self._slots: list[LiveSlot] = [*self._entries, *(WholeTensor(*item) for item in whole_tensors.items())]
        self._values += [values[name] for name in whole_tensors]
        self._expected = [slot.read() for slot in self._entries]
        self._identity = ModuleIdentity(model, tensors_of(self._slots))

    def apply(self) -> Grafted:
        """Apply the patches, all or nothing.

        Raises:
            PatchMismatchError: the model holds other bits at the patches' entries than when they were prepared, or was
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
        self._check_place()
        originals = [slot.read() for slot in self._slots]
        self._check_values(originals)
        layer = Layer(self._identity, self._slots, originals, self._values)
        layer.put_on()
        return Grafted(self._model, layer, self._k)

    def _check_place(self) -> None:
        """Refuse a model whose tensors are not those that the patches were prepared for.

        Raises:
            PatchMismatchError: it was cast, moved or got other tensors since.
        """
        name = self._identity.lost(tensors_of(self._slots))
        if name := name or next((name for slot in self._entries if (name := slot.moved())), None):
            raise self._refusal(name, "it was cast, moved or replaced since the patch was prepared: prepare it again")

    def check_base(self) -> None:
        """Refuse a model that holds other bits at the patches' entries than when they were prepared.

        Raises:
            PatchMismatchError: as said.
            RevertError: it was cast, or a tensor has another shape.
        """
        self._check_values([slot.at_present().read() for slot in self._entries])

    def writes(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield what `apply` would write: a live tensor, (k,) int64 flat indices, and (k,) values in its dtype."""
        for slot, bits in zip(self._slots, self._values, strict=True):
            start = 0
            for _, tensor, indices in slot.selections():
                if indices is None:
                    yield tensor, torch.arange(tensor.numel(), device=tensor.device), bits.to(tensor).flatten()
                    continue
                yield tensor, indices, bits[start : start + indices.numel()].view(tensor.dtype)
                start += indices.numel()

    def _check_values(self, contents: Sequence[torch.Tensor]) -> None:
        for slot, expected, present in zip(self._entries, self._expected, contents, strict=False):
            if name := slot.differing(expected, present):
                raise self._refusal(name, "its values are not those that the patch was prepared for")

    def forget(self) -> None:
        """Release the model's memory; a graft in force can still be reverted."""
        for slot in self._entries:
            slot.forget()

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
    """Apply patches to a live model, all or nothing.

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
    prepared = prepare_patch(model, *patches, on_overlap=on_overlap, cast=cast, allow_mismatch=allow_mismatch)
    grafted = prepared.apply()
    prepared.forget()
    return grafted


@checked
def prepare_patch(
    model: torch.nn.Module,
    *patches: Patch,
    on_overlap: OverlapRule = "error",
    cast: bool = False,
    allow_mismatch: bool = False,
) -> PreparedPatch:
    """Check patches against a live model once, to apply them many times: `with prepared.apply(): ...`.

    Nothing is written. Arguments and errors are those of `apply_patch`; with `allow_mismatch` too the model must hold
    the same bits at each `apply` as it does now.
    """
    target = LiveTarget(model)
    outcomes = [
        check_compatible(patch, target, check_base=not allow_mismatch, cast=cast).require(type(model).__name__)
        for patch in patches
    ]
    for patch, outcome in zip(patches, outcomes, strict=True):
        for name, values in (patch.base_values or {}).items():
            cast_values(values, target.tensors[outcome.names[name]].dtype, name, "base values")
    assignment = stack_patches(patches, outcomes, on_overlap, target.gather)
    lacking = assignment.dense.keys() - set(target.names)
    if lacking:
        raise CheckpointError(
            f"the patch brings the whole tensor {sorted(lacking)[0]!r}, which {type(model).__name__} lacks: "
            "load the model with the task's head"
        )
    return PreparedPatch(model, target, assignment)


def _group_entries(
    model: torch.nn.Module,
    selections: Iterable[tuple[str, torch.Tensor, torch.Tensor]],
    values: Mapping[str, torch.Tensor],
) -> tuple[list[LiveEntries], list[torch.Tensor]]:
    """Group entries by device and width of bits, so that comparing a group waits for its device once.

    Returns:
        The groups, and for each the values of its entries, laid end to end.
    """
    owners, by_owner = Owners(model), defaultdict[str, list[tuple[OwnedEntries, torch.Tensor]]](list)
    for name, tensor, indices in selections:
        owned = owners.entries(name, tensor, indices)
        by_owner[owned.name].append((owned, values[name]))
    groups: dict[tuple[torch.device, int], dict[str, torch.Tensor]] = {}
    for name, parts in by_owner.items():
        tensor = parts[0][0].tensor
        groups.setdefault((tensor.device, tensor.element_size()), {})[name] = tensor
    owned_indices = {name: torch.cat([owned.indices for owned, _ in parts]) for name, parts in by_owner.items()}
    joined = {name: torch.cat([content for _, content in parts]) for name, parts in by_owner.items()}
    entries = [LiveEntries(tensors, {name: owned_indices[name].to(tensors[name].device) for name in tensors})
               for tensors in groups.values()]  # fmt: skip
    return entries, [slot.lay_out(joined) for slot in entries]
