"""The entries of the skills of rows of one token each, as in decoding: one gather and one scatter for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graft.mixture.products import Addition, Delta


class FlatEntries:
    """The entries of each row's skill, laid end to end, at their places in the inputs and outputs of all rows.

    Laying them out costs a fraction of a token's time, and is done once for as long as the rows stay.

    Args:
        deltas: of each row.
    """

    def __init__(self, deltas: Sequence[Delta]) -> None:
        n_outputs, n_inputs = deltas[0].shape
        self._columns = _offset([delta.columns for delta in deltas], n_inputs)
        self._values = torch.cat([delta.values for delta in deltas])
        self._addition = Addition(
            _offset([delta.rows for delta in deltas], n_outputs),
            _offset([delta.bias_rows for delta in deltas], n_outputs),
            torch.cat([delta.bias_values for delta in deltas]),
        )

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add what the entries give for (rows, 1, m) inputs to (rows, 1, n) contiguous outputs, in place."""
        self._addition.add(inputs.flatten().index_select(0, self._columns) * self._values, outputs.view(-1))


def _offset(parts: list[torch.Tensor], width: int) -> torch.Tensor:
    """Lay lists of places of width each end to end."""
    return torch.cat(torch._foreach_add(parts, [width * row for row in range(len(parts))]))
