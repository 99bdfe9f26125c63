"""Logits of rows with different numbers of choices, as one tensor whose shorter rows end in -inf."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graft.tasks.examples import Example


def pad_rows(values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return values (sum of sizes,) as rows (n, largest size) that end in -inf; no gradient flows through the padding.

    Under softmax and cross-entropy -inf is a label of probability exactly 0.
    """
    filled = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)  # (n, largest size)
    rows = torch.full(filled.shape, -torch.inf, dtype=values.dtype, device=values.device)
    return rows.masked_scatter(filled.to(values.device), values)


def are_finite(logits: torch.Tensor, examples: Sequence[Example]) -> bool:
    """Return whether all of (n, n_labels) logits on the CPU are finite, padding of rows with fewer choices aside."""
    sizes = torch.tensor([len(example.choices) or logits.shape[1] for example in examples])
    padded = torch.arange(logits.shape[1]) >= sizes.unsqueeze(1)
    return bool((logits.isfinite() | padded).all())
