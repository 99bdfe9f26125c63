"""How a training records what matters, and how it is held back from moving it, as typed blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

UNIFORM = "uniform"
STRENGTH = math.exp(-3)  # arXiv 2501.13669 writes e^-3, which could also mean 1e-3; artifacts/LOG.md has both


@dataclass(frozen=True)
class RecordSpec:
    """Recording the path integral while tuning (`graft.train.importance.synaptic_intelligence`).

    Attributes:
        share: of the trained weights whose importance is kept; above 0, at most 1.
        xi: what keeps Omega finite where a weight hardly moved, in units of the mean squared movement.
        every: steps between records; the movement since the last one is met with the gradient of the step. Above 1
            it is cheaper, and what is recorded keeps less.
    """

    share: float = 1.0
    xi: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError("share must be above 0 and at most 1")
        if self.xi <= 0 or self.every < 1:
            raise ValueError("xi must be above 0, and every 1 or more")


@dataclass(frozen=True)
class RegularizeSpec:
    """Moving a weight costs in proportion to how much it matters (`graft.train.penalty`).

    Attributes:
        importance: the file that a recording training or `graft importance --soft` left; that of the base's folder
            where absent. "uniform" in its place: every trained weight matters alike (L2-SP, arXiv 1802.01483).
        strength: phi, of the whole penalty.
        layers: coefficients by layer: softmax of the norms divided by the largest ("normalized"), of the norms as
            they are ("plain"), or 1 ("none").
        elements: each weight by its own importance; false gives all of the file's the mean.
        step: how the penalty acts: its "gradient" is added to the loss's, as published, or its "proximal" step is taken
            after the optimizer's, which no strength makes unstable.
    """

    importance: str | None = None
    strength: float = STRENGTH
    layers: Literal["normalized", "plain", "none"] = "normalized"
    elements: bool = True
    step: Literal["gradient", "proximal"] = "gradient"

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError("strength must be 0 or more")
