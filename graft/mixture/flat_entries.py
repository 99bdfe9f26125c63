"""The entries of the skills of rows of one token each, as in decoding: one gather and one scatter for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graft.mixture.delta import Delta
from graft.mixture.products import Addition


class FlatEntries:
    """The entries of each row's skill, laid end to end, at their places in the inputs and outputs of all rows.

    Laying them out costs a fraction of a token's time, and is done once for as long as the rows stay.

    Args:
        deltas: of each row.
    """

    def __init__(self, deltas: Sequence[Delta]) -> None:
        n_outputs, n_inputs = deltas[0].shape
        matrices, biases = [delta.matrix for delta in deltas], [delta.bias for delta in deltas]
        self._columns = _offset([part.columns for part in matrices], n_inputs)
        self._values = torch.cat([part.values for part in matrices])
        rows, bias_rows = (_offset([part.rows for part in parts], n_outputs) for parts in (matrices, biases))
        self._addition = Addition(rows, bias_rows, torch.cat([part.values for part in biases]))

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add what the entries give for (rows, 1, m) inputs to (rows, 1, n) contiguous outputs, in place."""
        self._addition.add(inputs.flatten().index_select(0, self._columns) * self._values, outputs.view(-1))


def _offset(parts: list[torch.Tensor], width: int) -> torch.Tensor:
    """Lay lists of places of width each end to end."""
    return torch.cat(torch._foreach_add(parts, [width * row for row in range(len(parts))]))
