"""Tensors that one patch brings whole and another changes in part, which can only come from one of them.

Entries of the base's tensor mean nothing in another tensor of that name, such as a head with other outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.errors import OverlapError
from graft.patch.overlap_rules import OverlapRule


@dataclass(frozen=True)
class Touched:
    """The names of the tensors that one patch touches.

    Attributes:
        partly: those with entries, or with new rows.
        whole: those that it brings whole.
    """

    partly: frozenset[str]
    whole: frozenset[str]

    @classmethod
    def of(cls, entries: Iterable[str], dense: Iterable[str], grown: Collection[str]) -> Touched:
        """Sort the names in a patch; those of `grown`, among `dense`, are new rows alone."""
        return cls(frozenset(entries).union(grown), frozenset(dense).difference(grown))


def settle_torn(patches: Sequence[Touched], rule: OverlapRule) -> list[frozenset[str]]:
    """Decide, by the rule for overlaps, which patch gives each tensor that one brings whole and another changes.

    A module's tensors come from one patch: a head's weight and its bias have as many outputs.

    Returns:
        For each patch the names of the tensors that it has to leave to another.

    Raises:
        OverlapError: there is such a tensor, and the rule is neither "first" nor "last".
    """
    torn = _names(patches, "partly") & _names(patches, "whole")
    if torn and rule not in ("first", "last"):
        raise OverlapError(
            f"one patch brings the whole tensor {min(torn)!r}, and another changes a part of it; "
            "choose --on-overlap first or last"
        )
    modules, comes_whole = {_module_of(name) for name in torn}, dict[str, bool]()
    for touched in reversed(patches) if rule == "last" else patches:
        for is_whole, names in ((True, touched.whole), (False, touched.partly)):
            for module in modules.intersection(map(_module_of, names)):
                comes_whole.setdefault(module, is_whole)
    return [_select(touched.whole, comes_whole, False) | _select(touched.partly, comes_whole, True)
            for touched in patches]  # fmt: skip


def _names(patches: Sequence[Touched], kind: str) -> frozenset[str]:
    return frozenset[str]().union(*(getattr(touched, kind) for touched in patches))


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _select(names: Collection[str], comes_whole: Mapping[str, bool], is_whole: bool) -> frozenset[str]:
    return frozenset(name for name in names if comes_whole.get(_module_of(name)) is is_whole)
