"""A skill's share in a matrix product, x -> x W' + b: what its few entries add to the base's output.

    y[t, r] += sum over entries (r, c) of (w'[r, c] - w[r, c]) x[t, c],  and  y[t, r] += b'[r] - b[r]

Three ways give the same sums, and the cheapest for a patch is chosen when it is added: entry by entry, for all rows of
a batch at once (`graft.mixture.row_entries`); the touched rows by the touched columns as one small matrix; or two of
these, for the rows and for the columns of a minimal cover of the entries (`graft.patch.vertex_cover`), which is the
product by two factors of that rank without their zeros.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from graft.mixture.delta import Delta
from graft.patch.vertex_cover import cover_entries
from graft.tensors.touched_lines import block_cost, number

# As measured on a CPU, in units of one product within a matrix: an entry gathered, multiplied and added; and, a token
# of a short text, a call for one run of rows
ENTRY, CALL = 96.0, 15_000.0


class Product(Protocol):
    """A way to compute a skill's share in the outputs of tokens.

    Attributes:
        rows: (n,) int64: the outputs that its shares belong to.
        cost: products a token, in those of a matrix product.
    """

    rows: torch.Tensor
    cost: float

    def share(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (..., n) fp32: what is added to the outputs at `rows` for inputs (..., m)."""
        ...


class BlockProduct:
    """One small dense matrix between the touched inputs and the touched outputs.

    Args:
        rows, columns: (k,) outputs and inputs.
        values: (k,) fp32.
    """

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> None:
        self.rows, row_places = number(rows)
        self._columns, column_places = number(columns)
        self._matrix = values.new_zeros(self._columns.numel(), self.rows.numel())
        self._matrix[column_places, row_places] = values
        self.cost = block_cost(*self._matrix.shape) + CALL

    def share(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return a share a touched output."""
        return inputs.index_select(-1, self._columns).to(self._matrix.dtype) @ self._matrix


class Products:
    """Several of them beside each other."""

    def __init__(self, *products: Product) -> None:
        self._products = products
        self.rows = torch.cat([product.rows for product in products])
        self.cost = sum(product.cost for product in products)

    def share(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the shares of each, one after the other."""
        return torch.cat([product.share(inputs) for product in self._products], -1)


def choose_product(delta: Delta) -> Product | None:
    """Choose the cheapest way for a matrix's entries; None where that is entry by entry."""
    matrix = delta.matrix
    entries = (matrix.rows, matrix.columns, matrix.values)
    by_entry = ENTRY * matrix.rows.numel()
    if by_entry <= CALL:  # any other way costs more, and to find a cover is most of the cost of adding a skill
        return None
    cheapest = min(BlockProduct(*entries), _cover(*entries, delta.shape), key=lambda product: product.cost)
    return cheapest if cheapest.cost < by_entry else None


def _cover(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> Product:
    flat, order = torch.sort(rows * shape[1] + columns)
    rows, columns, values = (part[order] for part in (rows, columns, values))
    cover = cover_entries(flat.cpu().numpy(), shape)
    in_rows = torch.from_numpy(np.isin(rows.cpu().numpy(), cover.rows)).to(rows.device)
    parts = [part for part in (in_rows, ~in_rows) if part.any()]
    return Products(*(BlockProduct(rows[part], columns[part], values[part]) for part in parts))


class Addition:
    """The addition of shares, and of a bias, to outputs, in place.

    What is narrower than fp32 is read wide, added to, and rounded once.

    Args:
        rows: (n,) int64: the outputs that the shares belong to.
        bias_rows, bias_values: (b,): outputs, and what is always added to them.
    """

    def __init__(self, rows: torch.Tensor, bias_rows: torch.Tensor, bias_values: torch.Tensor) -> None:
        self._rows, self._bias_rows, self._bias_values = rows, bias_rows, bias_values

    def add(self, share: torch.Tensor, output: torch.Tensor) -> None:
        """Add (..., n) a share to (..., m) the outputs."""
        if output.dtype == share.dtype:
            self._add(share, output, self._rows, self._bias_rows)
            return
        touched, places = self._numbered
        present = output.index_select(-1, touched).to(share.dtype)
        self._add(share, present, places[: self._rows.numel()], places[self._rows.numel() :])
        output.index_copy_(-1, touched, present.to(output.dtype))

    @cached_property
    def _numbered(self) -> tuple[torch.Tensor, torch.Tensor]:
        return number(torch.cat([self._rows, self._bias_rows]))

    def _add(self, share: torch.Tensor, output: torch.Tensor, rows: torch.Tensor, bias_rows: torch.Tensor) -> None:
        output.index_add_(-1, rows, share)
        if bias_rows.numel():
            output.index_add_(-1, bias_rows, self._bias_values.expand(*output.shape[:-1], -1))
