"""Tensors of an imported file matched by name with those of its base."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graft.errors import MismatchError
from graft.sources.adapters.imported_weights import Edit, ImportedWeights, replace_whole
from graft.sources.adapters.sizes import resized_heads
from graft.tensors.architecture import name_map_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits


def match_edits(weights: ImportedWeights, base: Checkpoint) -> tuple[dict[str, list[Edit]], dict[str, torch.Tensor]]:
    """Match the names in a file with the base's.

    Returns:
        The base's tensors -> their edits, several where the file lists tied names; and tensors that the base lacks, or
        of a head of another size.

    Raises:
        MismatchError: the base lacks a tensor that is edited, or ties what the file unties.
    """
    file_names = [*weights.edits, *weights.whole]
    base_names = _match_listed(file_names, base)
    dense = {name: read() for name, read in weights.whole.items() if name not in base_names}
    heads = resized_heads(weights, base_names, base)
    base_names = {name: target for name, target in base_names.items() if target not in heads}
    dense |= heads
    lacking = sorted(set(weights.edits) - base_names.keys())
    if lacking or not (base_names or heads):
        what = f"tensor {lacking[0]!r}" if lacking else "any of the tensors"
        raise MismatchError(f"{base.path.name} lacks {what} that the imported file changes: is it another base's?")
    _refuse_untied(weights, base, file_names)
    edits: dict[str, list[Edit]] = {}
    for name, target in base_names.items():
        whole = weights.whole.get(name)
        edits.setdefault(target, []).append(weights.edits[name] if whole is None else replace_whole(name, whole))
    return edits, {name: tensor.clone() for name, tensor in dense.items()}


def apply_edits(before: torch.Tensor, name: str, edits: Sequence[Edit]) -> torch.Tensor:
    """Return the tuned values of one tensor of the base, with new rows where its vocabulary grew, as `Edit` does.

    Raises:
        MismatchError: the file gives tied names different values.
    """
    tuned = edits[0](before)
    for other in edits[1:]:
        if not same_bits(tuned.to(before.dtype), other(before).to(before.dtype)):
            raise MismatchError(
                f"the base ties {name!r} with another tensor, but the imported file unties them: "
                "it changes both, each in its own way"
            )
    return tuned


def _match_listed(file_names: list[str], base: Checkpoint) -> dict[str, str]:
    """Map the file's names to the base's listed names; tied names to a single one."""
    return {name: base.tied.owner(target, base.files) for name, target in _match_each(file_names, base).items()}


def _match_each(file_names: list[str], base: Checkpoint) -> dict[str, str]:
    """Map the file's names to the base's, each tied name to its own."""
    return name_map_of(base.architecture).match(file_names, {*base.names, *set().union(*base.tied)}).found


def _refuse_untied(weights: ImportedWeights, base: Checkpoint, file_names: list[str]) -> None:
    """Refuse a separate copy of one of several tied tensors: the tool's model unties them, which no patch can.

    Raises:
        MismatchError: there is one; both names are given.
    """
    base_names = _match_each(file_names, base)
    changed = set(base_names.values())
    for name in weights.untied & base_names.keys():
        group = base.tied.group_of(base_names[name])
        if group - changed:
            raise MismatchError(
                f"the imported file holds {name!r} as a copy of its own, but the base ties it with "
                f"{min(group - changed)!r}, which would stay as it is: a patch cannot untie them"
            )
