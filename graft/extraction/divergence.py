"""Mean divergence of an extracted model's predictions from the tuned model's: KL(p || q) in nats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from graft.refit.objective import divergences


def mean_divergence(reference: npt.NDArray[np.float64], logits: npt.NDArray[np.float64]) -> float:
    """Return the mean over rows of KL(softmax(reference) || softmax(logits)), both (n, labels)."""
    return float(divergences(torch.from_numpy(reference), torch.from_numpy(logits)).mean())
