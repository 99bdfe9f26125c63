"""Checkpoints in different dtypes: differences that tuning made, told from those that rounding alone made.

A model tuned in bf16 from a base in fp32 differs from it at nearly every weight, since its weights were rounded before
the first step. Where the base's value, rounded to the tuned checkpoint's dtype, is the tuned value bit for bit, tuning
changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from graft.tensors.dtypes import NARROW, as_bits, same_bits

_PART = 1 << 17  # values looked at together: of weights that were never rounded the first few tell


def undo_rounding(base: torch.Tensor, tuned: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the tuned values, but the base's where rounding explains the difference.

    A base of fp32 [1.001, 1.002] is [1.0, 1.0] in bf16. Tuned bf16 values [1.0, 1.0156] therefore read as
    [1.001, 1.0156]: the first weight was only rounded, the second changed.

    Args:
        base, tuned: of one shape, in the base's dtype.
        dtype: in which the tuned values are stored.
    """
    if dtype == base.dtype or not base.is_floating_point():
        return tuned
    explained = as_bits(base.to(dtype).to(base.dtype)) == as_bits(tuned)
    return torch.where(explained, as_bits(base), as_bits(tuned)).view(base.dtype)


def narrow_dtype(tensors: Iterable[torch.Tensor]) -> torch.dtype | None:
    """Find the 16-bit dtype that holds every value of 32- or 64-bit weights, as of a bf16 model saved in fp32, or None.

    Args:
        tensors: read one after another, up to the first value that neither dtype holds.
    """
    candidates = list(NARROW)
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.float64):
            return None
        flat = tensor.flatten()
        for part in (flat[start : start + _PART] for start in range(0, len(flat), _PART)):
            candidates = [dtype for dtype in candidates if same_bits(part.to(dtype).to(part.dtype), part)]
            if not candidates:
                return None
    return candidates[0]
