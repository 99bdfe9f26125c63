"""The entries of the skills of consecutive rows, each row with its own, computed for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch.nn.functional import pad

from graft.mixture.products import Delta
from graft.tensors.dtypes import as_bits


class PackedEntries:
    """A skill's entries laid out to be stacked with those of others.

    Lists are padded to a few lengths, with entries of the value 0, so that those of most skills are equally long.

    Args:
        delta: the entries.

    Attributes:
        places: (3, n) int64: columns, rows, and places of the rows in `touched`.
        values: (n,) fp32.
        bias_places: (2, m) int64: rows and their places.
        bias_values: (m,) fp32.
        touched: (t,) int64: the outputs that have entries.
        spare: one that has none; None where all have some.
    """

    def __init__(self, delta: Delta) -> None:
        self.places = _pad(torch.stack([delta.columns, delta.rows, delta.places]))
        self.values = _pad(delta.values)
        self.bias_places = _pad(torch.stack([delta.bias_rows, delta.bias_places]))
        self.bias_values = _pad(delta.bias_values)
        self.touched, self.spare = delta.touched, delta.spare


class RowEntries:
    """The entries of each row's skill.

    In the rows' inputs (rows, tokens, m) and outputs (rows, tokens, n) an entry is gathered, multiplied and added
    wherever it belongs. What is narrower than fp32 is rounded once.

    Args:
        packs: of each row.
    """

    def __init__(self, packs: Sequence[PackedEntries]) -> None:
        self._packs = packs
        self._columns, self._rows, self._places = _stack([pack.places for pack in packs]).unbind(1)
        self._values = _stack([pack.values for pack in packs]).unsqueeze(1)
        self._bias_rows, self._bias_places = _stack([pack.bias_places for pack in packs]).unbind(1)
        self._bias_values = _stack([pack.bias_values for pack in packs]).unsqueeze(1)

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
        longest = max(pack.touched.numel() for pack in self._packs)
        lists = []
        for pack in self._packs:
            if pack.spare is None:
                return None
            lists.append(pad(pack.touched, (0, longest - pack.touched.numel()), value=pack.spare))
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


def _pad(part: torch.Tensor) -> torch.Tensor:
    """Pad the last dimension to a power of two, or from 32 on to a multiple of 32."""
    length = part.shape[-1]
    wanted = -(-length // 32) * 32 if length > 16 else 1 << (length - 1).bit_length() if length else 0
    return pad(part, (0, wanted - length))


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    longest = max(part.shape[-1] for part in parts)
    return torch.stack(
        [part if part.shape[-1] == longest else pad(part, (0, longest - part.shape[-1])) for part in parts]
    )
