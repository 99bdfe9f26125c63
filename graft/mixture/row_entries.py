"""The entries of the skills of consecutive rows, each row with its own, computed for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch.nn.functional import pad

from graft.mixture.delta import Delta
from graft.tensors.dtypes import as_bits


class RowEntries:
    """The entries of each row's skill.

    In the rows' inputs (rows, tokens, m) and outputs (rows, tokens, n) an entry is gathered, multiplied and added
    wherever it belongs. What is narrower than fp32 is rounded once.

    Args:
        deltas: of each row.
    """

    def __init__(self, deltas: Sequence[Delta]) -> None:
        self._deltas = deltas
        self._columns, self._rows, self._places = _stack([delta.places for delta in deltas]).unbind(1)
        self._values = _stack([delta.values for delta in deltas]).unsqueeze(1)
        self._bias_rows, self._bias_places = _stack([delta.bias_places for delta in deltas]).unbind(1)
        self._bias_values = _stack([delta.bias_values for delta in deltas]).unsqueeze(1)

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add what the entries give for (rows, tokens, m) inputs to (rows, tokens, n) contiguous outputs, in place."""
        if outputs.dtype == self._values.dtype:
            self._add(inputs, outputs, self._rows, self._bias_rows)
            return
        if self._touched is None:
            present = outputs.to(self._values.dtype)
            self._add(inputs, present, self._rows, self._bias_rows)
            outputs.copy_(present)
            return
        touched = _for_tokens(self._touched, inputs)
        present = outputs.gather(-1, touched).to(self._values.dtype)
        self._add(inputs, present, self._places, self._bias_places)
        # as integers of the same width, which are scattered several times faster
        as_bits(outputs).scatter_(-1, touched, as_bits(present.to(outputs.dtype)))

    @cached_property
    def _touched(self) -> torch.Tensor | None:
        """The outputs that each row touches, and one that it does not, written as it was read, for those it lacks."""
        longest = max(delta.touched.numel() for delta in self._deltas)
        lists = []
        for delta in self._deltas:
            if delta.spare is None:
                return None
            lists.append(pad(delta.touched, (0, longest - delta.touched.numel()), value=delta.spare))
        return torch.stack(lists)

    def _add(self, inputs: torch.Tensor, outputs: torch.Tensor, rows: torch.Tensor, bias_rows: torch.Tensor) -> None:
        if rows.shape[-1]:
            share = inputs.gather(-1, _for_tokens(self._columns, inputs)) * self._values
            outputs.scatter_add_(-1, _for_tokens(rows, inputs), share)
        if bias_rows.shape[-1]:
            bias = self._bias_values.expand(-1, inputs.shape[1], -1)
            outputs.scatter_add_(-1, _for_tokens(bias_rows, inputs), bias)


def _for_tokens(places: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return places.unsqueeze(1).expand(-1, inputs.shape[1], -1)


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    longest = max(part.shape[-1] for part in parts)
    return torch.stack(
        [part if part.shape[-1] == longest else pad(part, (0, longest - part.shape[-1])) for part in parts]
    )
