"""Several patches as one assignment: what each tensor gets, and what happens where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from graft.errors import OverlapError
from graft.patch.fit import Fit
from graft.patch.mask import Indices
from graft.patch.overlap_rules import OverlapRule as OverlapRule
from graft.patch.overlap_rules import join_entries
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import same_bits

Gather = Callable[[str, torch.Tensor], torch.Tensor]  # a target's tensor, (s,) flat indices -> (s,) values


@dataclass(frozen=True)
class Assignment:
    """The writes of one or more patches: per target tensor, flat indices (k,) int64 and values (k,)."""

    entries: dict[str, tuple[torch.Tensor, torch.Tensor]]
    dense: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return sum(indices.numel() for indices, _ in self.entries.values())


def stack_patches(
    patches: Sequence[Patch], fits: Sequence[Fit], rule: OverlapRule = "error", gather: Gather | None = None
) -> Assignment:
    """Join patches into one assignment to the target's tensors.

    Patches overlap without conflict where they agree bitwise. `rule` says what stays where they do not
    (`graft.patch.overlap_rules`); "sign" and "slerp" measure from the target's own values, which `gather` gives.

    Raises:
        OverlapError: two patches disagree and the rule is "error", or it cannot be followed; or one replaces what the
            other patches under another name.
    """
    found: dict[str, list[tuple[Indices, torch.Tensor]]] = {}
    dense: dict[str, torch.Tensor] = {}
    _refuse_torn_ties(patches, fits)
    for patch, fit in zip(patches, fits, strict=True):
        for name, place in fit.names.items():
            found.setdefault(place, []).append((patch.mask[name], patch.values[name]))
        for name, tensor in patch.dense.items():
            place = fit.dense.get(name, name)
            dense[place] = choose_whole(dense[place], tensor, rule, place) if place in dense else tensor
    return Assignment({place: _join(parts, rule, place, gather) for place, parts in found.items()}, dense)


def _refuse_torn_ties(patches: Sequence[Patch], fits: Sequence[Fit]) -> None:
    """Refuse a whole tensor that the target has under one roof with another whose entries are patched."""
    entries = {place: name for fit in fits for name, place in fit.names.items()}
    for patch, fit in zip(patches, fits, strict=True):
        for name in patch.dense:
            other = entries.get(fit.dense.get(name, name), name)
            if other != name:
                raise OverlapError(
                    f"a patch brings the whole tensor {name!r}, which is one with {other!r} in this model, and that is "
                    "patched too: untie them, or leave one out"
                )


def choose_whole(old: torch.Tensor, new: torch.Tensor, rule: OverlapRule, name: str) -> torch.Tensor:
    """Which of two patches' whole tensors stays; such tensors are never blended, since the base lacks them.

    Raises:
        OverlapError: they differ and the rule is neither "first" nor "last".
    """
    if old.shape == new.shape and same_bits(old, new):
        return old
    if rule not in ("first", "last"):
        raise OverlapError(f"two patches bring their own whole tensor {name!r}; choose --on-overlap first or last")
    return new if rule == "last" else old


def _join(
    parts: list[tuple[Indices, torch.Tensor]], rule: OverlapRule, place: str, gather: Gather | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if len(parts) == 1:
        return torch.tensor(parts[0][0]), parts[0][1]
    first = parts[0][1].dtype
    for _, values in parts[1:]:
        if values.dtype != first:
            raise OverlapError(f"tensor {place!r}: the patches hold {first} and {values.dtype} values")
    meeting = join_entries(parts, rule, place, partial(gather, place) if gather else None)
    return meeting.indices, meeting.values
