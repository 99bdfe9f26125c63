"""The rows and columns of a matrix that few entries touch, and what a product of these alone costs."""

from __future__ import annotations

import torch

LINE = 48.0  # products within a matrix that take as long as one number gathered or added to, as measured on a CPU


def number(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places once, ascending, and for each of them (n,) its number there."""
    unique, numbers = places.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return unique, numbers


def block_cost(n_rows: int, n_columns: int) -> float:
    """Return the cost a token of a product between so many rows and columns, in products within a matrix."""
    return n_rows * n_columns + LINE * (n_rows + n_columns)
