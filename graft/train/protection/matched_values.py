"""The values that a model holds at the entries of a patch to protect: the skill's own, or the base's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graft.errors import PatchMismatchError
from graft.patch.compatibility import check_specs
from graft.patch.live import LiveTarget
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import TORCH_DTYPES, same_bits
from graft.tensors.hashing import hash_values


def find_matched_values(model: torch.nn.Module, patches: Sequence[Patch]) -> str:
    """Find what is there: "skill", "base", or "skill and base" over several patches; "present" without a patch.

    Raises:
        PatchMismatchError: at some tensor the model holds neither, or lacks it.
    """
    target = LiveTarget(model)
    found = {_match_values(patch, target, type(model).__name__) for patch in patches}
    return " and ".join(sorted(found, reverse=True)) or "present"


def _match_values(patch: Patch, target: LiveTarget, what: str) -> str:
    outcome = check_specs(patch.mask.specs, {}, patch.provenance.tied, target, cast=True).require(what)
    kinds = {name: _kinds_of(patch, name, target.gather(outcome.names[name], torch.tensor(patch.mask[name])))
             for name in patch.mask}  # fmt: skip
    for kind in ("skill", "base"):
        if all(kind in found for found in kinds.values()):
            return kind
    name = next((name for name, found in kinds.items() if not found), next(iter(kinds)))
    raise PatchMismatchError(
        f"a patch to protect is neither in {what} nor absent from it: tensor {name!r}: the values at its "
        f"{len(patch.mask[name]):,} entries are not all the patch's, and not all the base's; a mask protects any values"
    )


def _kinds_of(patch: Patch, name: str, values: torch.Tensor) -> set[str]:
    narrow = values.to(TORCH_DTYPES[patch.mask.specs[name].dtype])
    if not same_bits(narrow.to(values.dtype), values):  # in a wider dtype than the patch's, and moved since
        return set()
    kinds = {"skill"} if same_bits(narrow, patch.values[name]) else set()
    return kinds | ({"base"} if hash_values(narrow) == patch.base_hashes[name] else set())
