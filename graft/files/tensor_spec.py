"""TensorSpec: the dtype and shape of a stored tensor, in safetensors' own words."""

from __future__ import annotations

import math
from dataclasses import dataclass

# bytes of an element, by the safetensors dtypes that a patch can carry
ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class TensorSpec:
    """The safetensors dtype name and the shape of a tensor (() for a scalar), as a checkpoint's header states them."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements: 1 for a scalar, 0 where a dimension is 0."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Number of bytes that the elements take."""
        return self.numel * ITEM_SIZES[self.dtype]

    @property
    def is_float(self) -> bool:
        """True where the values are floating point, so that training could change them."""
        return self.dtype.startswith(("F", "BF"))

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"
