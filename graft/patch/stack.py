"""Several patches joined into one assignment, tensor by tensor, by a rule for their overlaps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from graft.errors import OverlapError
from graft.files.tensor_spec import TensorSpec
from graft.patch.compatibility import Compatibility
from graft.patch.mask import Indices
from graft.patch.overlap_rules import OverlapRule as OverlapRule
from graft.patch.overlap_rules import join_entries
from graft.patch.skill_patch import Patch
from graft.patch.torn_tensors import Touched, settle_torn
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
    patches: Sequence[Patch],
    outcomes: Sequence[Compatibility],
    rule: OverlapRule = "error",
    gather: Gather | None = None,
) -> Assignment:
    """Join patches into one assignment to the target's tensors.

    Patches overlap without conflict where they agree bitwise. Where they do not, `rule` decides
    (`graft.patch.overlap_rules`); "sign" and "slerp" measure from the target's own values, which `gather` gives.

    Raises:
        OverlapError: two patches disagree and the rule is "error", or it cannot be followed; one replaces what the
            other patches, under another name or where the rule is neither "first" nor "last"; or two vocabularies are
            of different tokens.
    """
    _refuse_torn_ties(patches, outcomes)
    left = settle_torn([_touched(*pair) for pair in zip(patches, outcomes, strict=True)], rule)
    growths = join_growths(patches, outcomes, rule, left)
    by_target: dict[str, list[tuple[Indices, torch.Tensor]]] = {}
    dense: dict[str, torch.Tensor] = {}
    for patch, outcome, elsewhere in zip(patches, outcomes, left, strict=True):
        for name, target_name in outcome.names.items():
            if target_name not in elsewhere:
                by_target.setdefault(target_name, []).append((patch.mask[name], patch.values[name]))
        for name, tensor in patch.dense.items():
            target_name = outcome.dense.get(name, name)
            old = dense.get(target_name)
            if target_name not in elsewhere:
                dense[target_name] = tensor if old is None else choose_whole(old, tensor, rule, target_name)
    entries = {target_name: _join(parts, rule, target_name, gather) for target_name, parts in by_target.items()}
    rows = {target_name: dense.pop(target_name) for target_name in growths}
    return Assignment(entries, dense, rows, growths)


def join_growths(
    patches: Sequence[Patch],
    outcomes: Sequence[Compatibility],
    rule: OverlapRule,
    left: Sequence[Collection[str]],
) -> dict[str, Growth]:
    """Join the new rows of several patches: target tensor -> the row where they begin, and their tokens.

    Args:
        patches, outcomes, rule: as in `stack_patches`.
        left: for each patch the target tensors that it leaves to another one.

    Raises:
        OverlapError: they bring different tokens, or rows from different places on, and the rule is neither "first"
            nor "last".
    """
    by_target: dict[str, Growth] = {}
    for patch, outcome, elsewhere in zip(patches, outcomes, left, strict=True):
        for name, growth in patch.provenance.grown.items():
            target_name = outcome.dense.get(name, name)
            old = by_target.get(target_name)
            if target_name not in elsewhere:
                by_target[target_name] = growth if old is None else choose_growth(old, growth, rule, target_name)
    return by_target


def choose_growth(old: Growth, new: Growth, rule: OverlapRule, name: str) -> Growth:
    """Choose which of two patches' tokens stay, with the rows of the same patch.

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
    """Return the same writes with new rows as entries, for tensors that have the rows already.

    Entries that a patch, of such a model, has in those rows stay on top of them.

    Args:
        assignment: the writes.
        spec: gives a target tensor's dtype and shape.
    """
    entries, rows, growths = dict(assignment.entries), dict[str, torch.Tensor](), dict[str, Growth]()
    for target_name, new_rows in assignment.rows.items():
        own = spec(target_name)
        if own.shape[0] == assignment.growths[target_name].start:  # it grows when it is written
            rows[target_name], growths[target_name] = new_rows, assignment.growths[target_name]
            continue
        indices = torch.arange(own.numel - new_rows.numel(), own.numel)
        values = new_rows.flatten().to(TORCH_DTYPES[own.dtype])
        if target_name in entries:
            patched, patched_values = entries[target_name]
            is_free = ~torch.isin(indices, patched)
            indices = torch.cat([patched, indices[is_free]])
            values = _append(patched_values, values[is_free])
        entries[target_name] = indices, values
    return Assignment(entries, assignment.dense, rows, growths)


def _append(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([values.to(rows.dtype), rows])


def _first_tokens(growth: Growth) -> str:
    named = [token for token in growth.tokens if token is not None]
    return f"{', '.join(map(repr, named[:3]))}{', …' if len(named) > 3 else ''}" if named else "unnamed ones"


def _refuse_torn_ties(patches: Sequence[Patch], outcomes: Sequence[Compatibility]) -> None:
    """Refuse a whole tensor that the target ties with another one whose entries are patched."""
    patched: dict[str, set[str]] = {}
    for outcome in outcomes:
        for name, target_name in outcome.names.items():
            patched.setdefault(target_name, set()).add(name)
    for patch, outcome in zip(patches, outcomes, strict=True):
        for name in patch.dense:
            others = patched.get(outcome.dense.get(name, name), set()) - {name}
            if others:
                raise OverlapError(
                    f"a patch brings the whole tensor {name!r}, which is one with {min(others)!r} in this model, and "
                    "that is patched too: untie them, or leave one out"
                )


def _touched(patch: Patch, outcome: Compatibility) -> Touched:
    """Return the target's names of what a patch touches."""
    dense = {name: outcome.dense.get(name, name) for name in patch.dense}
    return Touched.of(outcome.names.values(), dense.values(), [dense[name] for name in patch.provenance.grown])


def choose_whole(old: torch.Tensor, new: torch.Tensor, rule: OverlapRule, name: str) -> torch.Tensor:
    """Choose which of two patches' whole tensors stays; such tensors are never blended, since the base lacks them.

    Raises:
        OverlapError: they differ and the rule is neither "first" nor "last".
    """
    if old.shape == new.shape and same_bits(old, new):
        return old
    if rule not in ("first", "last"):
        raise OverlapError(f"two patches bring their own whole tensor {name!r}; choose --on-overlap first or last")
    return new if rule == "last" else old


def _join(
    parts: list[tuple[Indices, torch.Tensor]], rule: OverlapRule, target_name: str, gather: Gather | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if len(parts) == 1:
        return torch.tensor(parts[0][0]), parts[0][1]
    first = parts[0][1].dtype
    for _, values in parts[1:]:
        if values.dtype != first:
            raise OverlapError(f"tensor {target_name!r}: the patches hold {first} and {values.dtype} values")
    joined = join_entries(parts, rule, target_name, partial(gather, target_name) if gather else None)
    return joined.indices, joined.values
