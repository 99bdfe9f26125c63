"""Casts of a patch's values to another dtype: rounding is allowed, any greater loss is refused."""

from __future__ import annotations

import torch

from graft.errors import PatchMismatchError
from graft.tensors.dtypes import as_bits


def cast_values(values: torch.Tensor, dtype: torch.dtype, name: str, what: str = "values") -> torch.Tensor:
    """Cast values to another dtype, rounded to nearest where both are floating point.

    Args:
        values: of any shape.
        dtype: the model's.
        name: the tensor's, for an error.
        what: what the values are, for an error.

    Raises:
        PatchMismatchError: one is too large for the dtype, or is no whole number where it takes no other.
    """
    if values.dtype == dtype:
        return values
    converted = values.to(dtype)
    if dtype.is_floating_point and values.dtype.is_floating_point:
        fits = bool((values.double().abs() <= torch.finfo(dtype).max).all())  # some casts end in the largest number
    else:
        fits = _comes_back(converted, values)
    if not fits:
        raise PatchMismatchError(
            f"tensor {name!r}: some of the patch's {what} do not fit into {dtype}: load the model in {values.dtype}"
        )
    return converted


def _comes_back(converted: torch.Tensor, values: torch.Tensor) -> bool:
    """Return whether a cast from or to whole numbers lost nothing."""
    back = converted.to(values.dtype)
    if values.dtype.is_floating_point:
        return torch.equal(back.double(), values.double())
    same_sign = torch.equal(converted.double() < 0, values.double() < 0)  # -1 as an unsigned number comes back too
    return same_sign and torch.equal(as_bits(back), as_bits(values))
