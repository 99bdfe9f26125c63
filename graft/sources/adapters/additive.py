"""Additive formats: find the difference whose addition gives the tuned value, where one does.

A tool that adds computes fl(base + d), with d in float32 (float64 for a float64 tensor), and stores it in the
base's dtype. Rounding is monotone, so the d that land on one value form an interval. It contains tuned - base, taken in
the reals; if it contains any float at all it contains one of the two floats beside that point, and these are among the
nearest float to it, the float above and the float below. Three tries are therefore exhaustive.
"""

from __future__ import annotations

import torch

from graft.tensors.dtypes import as_bits


def add_difference(base: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
    """Add as the other tools do: in the wider dtype of the two, rounded to the base's dtype."""
    wide = difference_dtype(base.dtype)
    return (base.to(wide) + difference.to(wide)).to(base.dtype)


def find_difference(base: torch.Tensor, tuned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the difference whose addition gives the tuned value, if there is one.

    Args:
        base, tuned: (k,) of one floating dtype.

    Returns:
        difference: (k,) in `difference_dtype(dtype)`: exact where one is, else the nearest.
        reached: (k,) bool, whether adding it gives the tuned bits. A tuned -0.0 is out of reach of most bases:
            x + d = -0.0 only where both are -0.0, or where the sum is rounded away.
    """
    wide = difference_dtype(base.dtype)
    no_change = torch.tensor(-0.0, dtype=wide)  # x + -0.0 has the bits of every x
    # Example in bf16, with steps of 1/128 from 1 on: base 1, tuned 1.0078125. All d from .00390625 to .01171875 land on
    # it, .0078125 among them. To turn 1 into 1e-9 the d = -.999999999 rounds to -1 in fp32, which gives 0: the float
    # above gives 6e-8, and none lands.
    nearest = torch.where(as_bits(base) == as_bits(tuned), no_change, tuned.to(wide) - base.to(wide))
    difference, reached = nearest, _lands_on(base, nearest, tuned)
    for side in (torch.inf, -torch.inf):
        neighbor = torch.nextafter(nearest, torch.full_like(nearest, side))
        better = ~reached & _lands_on(base, neighbor, tuned)
        difference, reached = torch.where(better, neighbor, difference), reached | better
    return difference, reached


def difference_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which differences of a dtype's values are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lands_on(base: torch.Tensor, difference: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    return as_bits(add_difference(base, difference)) == as_bits(tuned)
