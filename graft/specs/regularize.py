"""The block `regularize` of a train block: moving a weight costs in proportion to how much it matters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from graft.specs.block import Block
from graft.specs.ranges import AtLeast

UNIFORM = "uniform"
STRENGTH = math.exp(-3)  # arXiv 2501.13669 writes e^-3, which could also mean 1e-3; artifacts/LOG.md has both


@dataclass(frozen=True)
class RegularizeSpec(Block):
    """A penalty on moving weights in proportion to their importance (`graft.train.penalty`).

    Attributes:
        importance: path of the file that a recording training or `graft importance --soft` wrote; the one in the
            base's folder where absent. "uniform" instead: every trained weight matters alike (L2 to the base).
        strength: phi, the factor of the whole penalty; e^-3 where absent.
        layers: coefficients by layer: softmax of the norms divided by the largest ("normalized"), of the norms as
            they are ("plain"), or 1 for every layer ("none").
        elements: weigh each weight by its own importance; false gives every weight of the file the mean.
        step: how the penalty acts: its "gradient" is added to the loss's, as published, or its "proximal" step is
            taken after the optimizer's, which no strength makes unstable.
    """

    importance: str | None = None
    strength: Annotated[float, AtLeast(0)] = STRENGTH
    layers: Literal["normalized", "plain", "none"] = "normalized"
    elements: bool = True
    step: Literal["gradient", "proximal"] = "gradient"
