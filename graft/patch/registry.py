"""Registry of the rules for coordinates that several patches want.

A rule that blends is a function of the values that the patches want, (s, m) fp64, of the base's values there, (s,) fp64
(zeros where the rule does not need them), and of which patches they are, (s, m) int64, to (s,) fp64; and a row here.
The rules below and their formulas are in `graft.patch.overlap_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.registry import Entry, Registry

_RULES = "graft.patch.overlap_rules:"


@dataclass(frozen=True, kw_only=True)
class OverlapEntry(Entry):
    """A rule.

    Attributes:
        kind: "refuse"; "keep", the bits of one patch stay as they are; "blend", new values, rounded to the dtype.
        needs_base: whether it measures from the base's values.
        may_cancel: whether it gives coordinates back to the base, which are counted.
    """

    kind: Literal["refuse", "keep", "blend"] = "blend"
    needs_base: bool = False
    may_cancel: bool = False


OVERLAP_RULES = Registry(
    "rule for overlaps",
    [
        OverlapEntry(name="error", help="refuse", target=f"{_RULES}refuse", kind="refuse"),
        OverlapEntry(name="first", help="the first patch's value", target=f"{_RULES}find_first", kind="keep"),
        OverlapEntry(name="last", help="the last patch's value", target=f"{_RULES}find_last", kind="keep"),
        OverlapEntry(name="mean", help="the mean of the values", target=f"{_RULES}average"),
        OverlapEntry(
            name="sign",
            help="the mean of the values on the side of the base where the sum of the differences lies, as in TIES",
            target=f"{_RULES}elect_sign",
            source="https://arxiv.org/abs/2306.01708",
            needs_base=True,
            may_cancel=True,
        ),
        OverlapEntry(
            name="slerp",
            help="the base plus the spherical mean of the differences",
            target=f"{_RULES}average_on_spheres",
            source="Shoemake 1985, Animating rotation with quaternion curves, SIGGRAPH",
            needs_base=True,
        ),
    ],
)
