"""RowCache: keys and values of rows of different lengths, each ending at the right edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

Layer = tuple[torch.Tensor, torch.Tensor]  # keys and values: (rows, heads, width, dimensions)


@dataclass(frozen=True, eq=False)
class RowCache:
    """Keys and values of some rows, whose tensors are never written in place, and may be shared.

    Attributes:
        lengths: tokens of each row. Those of shorter rows are padded on the left to the longest.
        layers: of every layer; none where no row has a token.
    """

    lengths: tuple[int, ...] = ()
    layers: tuple[Layer, ...] = ()

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    @property
    def n_bytes(self) -> int:
        """Bytes of all keys and values, padding included."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)

    def select(self, rows: Sequence[int]) -> RowCache:
        """Return some of the rows, without padding that all of them have."""
        lengths = tuple(self.lengths[row] for row in rows)
        width = max(lengths, default=0)
        if not width:
            return RowCache(lengths)
        start = self.width - width
        index = torch.tensor(rows, device=self.layers[0][0].device)
        return RowCache(
            lengths,
            tuple((keys[:, :, start:][index], values[:, :, start:][index]) for keys, values in self.layers),
        )

    def first(self, n_tokens: int) -> RowCache:
        """Return the first tokens of rows that have at least as many, all of one length."""
        if not n_tokens:
            return RowCache((0,) * len(self.lengths))
        layers = tuple((keys[:, :, :n_tokens], values[:, :, :n_tokens]) for keys, values in self.layers)
        return RowCache((n_tokens,) * len(self.lengths), layers)


def stack_rows(parts: Sequence[RowCache]) -> RowCache:
    """Put the rows of several caches under each other."""
    parts = [part for part in parts if part.lengths]
    lengths = tuple(length for part in parts for length in part.lengths)
    like = next((part.layers for part in parts if part.layers), ())
    if len(parts) == 1 or not like:
        return RowCache(lengths, like)
    width = max(lengths)
    widened = [_widen(part, width, like) for part in parts]
    return RowCache(
        lengths,
        tuple(
            (torch.cat([keys for keys, _ in layers]), torch.cat([values for _, values in layers]))
            for layers in zip(*widened, strict=True)
        ),
    )


def _widen(part: RowCache, width: int, like: tuple[Layer, ...]) -> list[Layer]:
    missing = (0, 0, width - part.width, 0)
    if part.layers:
        return [(pad(keys, missing), pad(values, missing)) for keys, values in part.layers]
    n_rows = len(part.lengths)
    return [(_zeros(keys, n_rows, width), _zeros(values, n_rows, width)) for keys, values in like]


def _zeros(like: torch.Tensor, n_rows: int, width: int) -> torch.Tensor:
    return like.new_zeros(n_rows, like.shape[1], width, like.shape[3])
