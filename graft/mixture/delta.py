"""Delta: a skill's entries of one matrix and its bias, as outputs, inputs and differences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from graft.tensors.touched_lines import number


@dataclass(frozen=True, eq=False)
class Moved:
    """Entries that a skill moves.

    Attributes:
        rows, columns: (k,) int64: outputs and inputs; of a bias, whose entries have no inputs, the same.
        values: (k,) fp32 (of fp64, fp64): what is added to the base's values.
        new: (k,) the skill's values, in the base's dtype.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    new: torch.Tensor

    @classmethod
    def none(cls, like: torch.Tensor) -> Moved:
        """Return no entries, of a weight of this dtype on this device."""
        places = torch.empty(0, dtype=torch.int64, device=like.device)
        wide = torch.promote_types(like.dtype, torch.float32)
        return cls(places, places, places.to(wide), places.to(like.dtype))


class Delta:
    """A skill's entries of one matrix and its bias, in few tensors, laid out to be stacked with those of other skills.

    Lists are padded to a few lengths, with entries of the value 0, so that those of most skills are equally long.

    Args:
        matrix, bias: the entries.
        shape: of the matrix: outputs and inputs.

    Attributes:
        places: (3, n) int64: columns, rows, and places of the rows in `touched`; padded.
        values: (n,) fp32 differences; padded.
        bias_places: (2, m) int64: rows and their places in `touched`; padded.
        bias_values: (m,) fp32 differences; padded.
        new, new_bias: (k,), (b,): the skill's values.
        touched: (t,) int64: the outputs that have entries, ascending.
        spare: the first output that has none; None where all have some.
        shape: outputs and inputs.
    """

    def __init__(self, matrix: Moved, bias: Moved, shape: tuple[int, int]) -> None:
        self.shape, self.new, self.new_bias = shape, matrix.new, bias.new
        self.touched, places = number(torch.cat([matrix.rows, bias.rows]))
        k = self.new.numel()
        self.places = _pad(torch.stack([matrix.columns, matrix.rows, places[:k]]))
        self.bias_places = _pad(torch.stack([bias.rows, places[k:]]))
        self.values, self.bias_values = _pad(matrix.values), _pad(bias.values)
        free = (self.touched != torch.arange(len(self.touched), device=self.touched.device)).nonzero()
        first = int(free[0, 0]) if len(free) else len(self.touched)
        self.spare = first if first < shape[0] else None

    @property
    def matrix(self) -> Moved:
        """The entries of the matrix."""
        columns, rows, _ = self.places[:, : self.new.numel()]
        return Moved(rows, columns, self.values[: self.new.numel()], self.new)

    @property
    def bias(self) -> Moved:
        """The entries of the bias."""
        rows, _ = self.bias_places[:, : self.new_bias.numel()]
        return Moved(rows, rows, self.bias_values[: self.new_bias.numel()], self.new_bias)


def _pad(part: torch.Tensor) -> torch.Tensor:
    """Pad the last dimension to a power of two, or from 32 on to a multiple of 32."""
    length = part.shape[-1]
    wanted = -(-length // 32) * 32 if length > 16 else 1 << (length - 1).bit_length() if length else 0
    return pad(part, (0, wanted - length))
