"""Divergence of one model's predictions from another's: KL(p || q) in nats, row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


def divergence_of_rows(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return (n,) KL of softmax(reference) to softmax(logits), both (n, labels); gradients flow through `logits`.

    A label that a row lacks has the logit -inf in both, and adds nothing.
    """
    missing = reference.isneginf()
    log_p = reference.log_softmax(-1).masked_fill(missing, 0)
    log_q = logits.log_softmax(-1).masked_fill(missing, 0)
    return (log_p.exp() * (log_p - log_q)).masked_fill(missing, 0).sum(-1)


def mean_divergence(reference: npt.NDArray[np.float64], logits: npt.NDArray[np.float64]) -> float:
    """Return the mean over rows of `divergence_of_rows`."""
    return float(divergence_of_rows(torch.from_numpy(reference), torch.from_numpy(logits)).mean())
