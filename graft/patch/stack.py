"""Several patches as one assignment: what each tensor gets, and what happens where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from graft.errors import OverlapError
from graft.files.tensor_spec import TensorSpec
from graft.patch.fit import Fit
from graft.patch.mask import Indices
from graft.patch.overlap_rules import OverlapRule as OverlapRule
from graft.patch.overlap_rules import join_entries
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import TORCH_DTYPES, same_bits
from graft.tensors.growth import Growth

Gather = Callable[[str, torch.Tensor], torch.Tensor]  # a target's tensor, (s,) flat indices -> (s,) values


@dataclass(frozen=True)
class Assignment:
    """The writes of one or more patches, by target tensor.

    Attributes:
        entries: flat indices (k,) int64 and values (k,).
        dense: whole tensors.
        rows: a vocabulary's new rows [new rows, ...], of tensors that hold them or will.
        growths: for each of these, the row that they begin at and their tokens.
    """

    entries: dict[str, tuple[torch.Tensor, torch.Tensor]]
    dense: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    growths: dict[str, Growth] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(indices.numel() for indices, _ in self.entries.values())


def stack_patches(
    patches: Sequence[Patch], fits: Sequence[Fit], rule: OverlapRule = "error", gather: Gather | None = None
) -> Assignment:
    """Join patches into one assignment to the target's tensors.

    Patches overlap without conflict where they agree bitwise. `rule` says what stays where they do not
    (`graft.patch.overlap_rules`); "sign" and "slerp" measure from the target's own values, which `gather` gives.

    Raises:
        OverlapError: two patches disagree and the rule is "error", or it cannot be followed; one replaces what the
            other patches under another name; or two vocabularies are of different tokens.
    """
    growths = join_growths(patches, fits, rule)
    found: dict[str, list[tuple[Indices, torch.Tensor]]] = {}
    dense: dict[str, torch.Tensor] = {}
    _refuse_torn_ties(patches, fits)
    for patch, fit in zip(patches, fits, strict=True):
        for name, place in fit.names.items():
            found.setdefault(place, []).append((patch.mask[name], patch.values[name]))
        for name, tensor in patch.dense.items():
            place = fit.dense.get(name, name)
            dense[place] = choose_whole(dense[place], tensor, rule, place) if place in dense else tensor
    entries = {place: _join(parts, rule, place, gather) for place, parts in found.items()}
    rows = {place: dense.pop(place) for place in growths}
    return Assignment(entries, dense, rows, growths)


def join_growths(patches: Sequence[Patch], fits: Sequence[Fit], rule: OverlapRule) -> dict[str, Growth]:
    """Target tensor -> where its new rows begin and their tokens, over several patches that may bring some.

    Raises:
        OverlapError: they bring different tokens, or rows from different places on, and the rule is neither "first"
            nor "last".
    """
    found: dict[str, Growth] = {}
    for patch, fit in zip(patches, fits, strict=True):
        for name, growth in patch.provenance.grown.items():
            place = fit.dense.get(name, name)
            found[place] = choose_growth(found[place], growth, rule, place) if place in found else growth
    return found


def choose_growth(old: Growth, new: Growth, rule: OverlapRule, name: str) -> Growth:
    """Which of two patches' tokens stays, with the rows of the same patch.

    Raises:
        OverlapError: they differ and the rule is neither "first" nor "last".
    """
    if old == new:
        return old
    if rule not in ("first", "last") or old.start != new.start:
        raise OverlapError(
            f"two patches bring different tokens for the new rows of {name!r} ({_first_tokens(old)} and "
            f"{_first_tokens(new)}); choose --on-overlap first or last"
        )
    return new if rule == "last" else old


def with_rows(assignment: Assignment, spec: Callable[[str], TensorSpec]) -> Assignment:
    """The same writes, new rows among the entries: for tensors that have the rows already.

    Args:
        assignment: the writes.
        spec: gives a target tensor's dtype and shape.
    """
    entries = dict(assignment.entries)
    for place, rows in assignment.rows.items():
        n = spec(place).numel
        here = torch.arange(n - rows.numel(), n), rows.flatten().to(TORCH_DTYPES[spec(place).dtype])
        before = entries.get(place)
        entries[place] = here if before is None else (torch.cat([before[0], here[0]]), _append(before[1], here[1]))
    return Assignment(entries, assignment.dense)


def _append(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([values.to(rows.dtype), rows])


def _first_tokens(growth: Growth) -> str:
    known = [token for token in growth.tokens if token is not None]
    return f"{', '.join(map(repr, known[:3]))}{', …' if len(known) > 3 else ''}" if known else "unnamed ones"


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
