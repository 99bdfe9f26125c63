"""Formats that add differences: which difference lands on the tuned value, and when none does.

A tool that adds computes fl(base + d), with d in float32 (float64 for a float64 tensor), and stores it in the
base's dtype. Rounding is monotone, so the d that land on one value form an interval. It holds tuned - base, taken in
the reals; where it holds any float at all it holds one of the two floats beside that point, and the nearest float to
it, the float above and the float below hold both. Three tries are therefore exhaustive.
"""

from __future__ import annotations

import torch

from graft.tensors.dtypes import as_bits


def add_difference(base: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
    """What a tool that adds arrives at: the sum in the wider dtype of the two, rounded to the base's dtype."""
    wide = widest(base.dtype)
    return (base.to(wide) + difference.to(wide)).to(base.dtype)


def find_difference(base: torch.Tensor, tuned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The difference whose addition gives the tuned value, where there is one.

    Args:
        base, tuned: (k,) of one floating dtype.

    Returns:
        difference: (k,) in `widest(dtype)`: exact where one is, else the nearest.
        reached: (k,) bool, whether adding it gives the tuned bits. A tuned -0.0 is out of reach of most bases:
            x + d = -0.0 only where both are -0.0, or where the sum is rounded away.
    """
    wide = widest(base.dtype)
    nothing = torch.tensor(-0.0, dtype=wide)  # x + -0.0 has the bits of every x
    nearest = torch.where(as_bits(base) == as_bits(tuned), nothing, tuned.to(wide) - base.to(wide))
    best, reached = nearest, _lands(base, nearest, tuned)
    for side in (torch.inf, -torch.inf):
        beside = torch.nextafter(nearest, torch.full_like(nearest, side))
        better = ~reached & _lands(base, beside, tuned)
        best, reached = torch.where(better, beside, best), reached | better
    return best, reached


def widest(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which differences of a dtype's values are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lands(base: torch.Tensor, difference: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    return as_bits(add_difference(base, difference)) == as_bits(tuned)
