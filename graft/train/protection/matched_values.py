"""Recognition of the values that a model holds at a patch to protect: the skill's own, or the base's."""

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
    """Name the values there: "skill", "base", or "skill and base" over several patches; "present" without a patch.

    Raises:
        PatchMismatchError: at some tensor the model holds neither, or lacks it.
    """
    target = LiveTarget(model)
    kinds = {_match_values(patch, target, type(model).__name__) for patch in patches}
    return " and ".join(sorted(kinds, reverse=True)) or "present"


def _match_values(patch: Patch, target: LiveTarget, model_name: str) -> str:
    live_names = check_specs(patch.mask.specs, {}, patch.provenance.tied, target, cast=True).require(model_name).names
    kinds = {}  # tensor name -> the kinds that its values match
    for name in patch.mask:
        kinds[name] = _match_tensor(patch, name, target.gather(live_names[name], torch.tensor(patch.mask[name])))
    for kind in ("skill", "base"):
        if all(kind in matched for matched in kinds.values()):
            return kind
    name = next((name for name, matched in kinds.items() if not matched), next(iter(kinds)))
    raise PatchMismatchError(
        f"a patch to protect is neither in {model_name} nor absent from it: tensor {name!r}: the values at its "
        f"{len(patch.mask[name]):,} entries are not all the patch's, and not all the base's; a mask protects any values"
    )


def _match_tensor(patch: Patch, name: str, values: torch.Tensor) -> set[str]:
    narrow = values.to(TORCH_DTYPES[patch.mask.specs[name].dtype])
    if not same_bits(narrow.to(values.dtype), values):  # in a wider dtype than the patch's, and moved since
        return set()
    kinds = {"skill"} if same_bits(narrow, patch.values[name]) else set()
    return kinds | ({"base"} if hash_values(narrow) == patch.base_hashes[name] else set())
