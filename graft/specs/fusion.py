"""The options of `graft fuse`: the methods of fusion and where each comes from.

    mean             sum_i theta_i / m (Wortsman et al. 2022, model soups, arXiv 2203.05482)
    slerp            the running spherical mean of the weights, t = 1/j for the j-th model (Shoemake 1985)
    task-arithmetic  theta_0 + scale * sum_i (theta_i - theta_0) (Ilharco et al. 2023, arXiv 2212.04089)
    ties             trim to the largest `density` of |theta_i - theta_0|, elect signs, mean of what agrees, times
                     `scale` (Yadav et al. 2023, arXiv 2306.01708)
    cpi              core-parameter isolation, in the style of CPI-FT (EMNLP 2025, arXiv 2508.21741): the core of a
                     model is the `core` share of all weights, those that moved furthest; each core is transplanted,
                     the rest is interpolated

What the last paper leaves open, and what is done here: a coordinate in several cores gets the mean of these models'
values; the angle is taken between whole weights (`angle="tensor"`, each tensor by itself, core entries among them) or
between whole models (`angle="model"`); every model has the same weight; more than two are folded in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from graft.compose.registry import FUSION_METHODS
from graft.specs.block import Block
from graft.specs.ranges import OneOf, Share

Rest = Literal["slerp", "lerp"]
Angle = Literal["tensor", "model"]


@dataclass(frozen=True)
class FusionSpec(Block):
    """The fusion of several models into one.

    Attributes:
        method: how the models are fused.
        scale: task-arithmetic, ties: factor of the summed differences; the paper's own where absent (0.4 and 1).
        density: ties: share of all weights that is kept of each model's differences.
        core: cpi: share of all weights in each core.
        threshold: cpi: Jaccard similarity from which two cores belong to one group.
        rest: cpi: how the weights outside of all cores are interpolated, spherically ("slerp") or linearly ("lerp").
        angle: slerp, cpi: take the angle between each pair of tensors ("tensor") or between whole models ("model").

    Raises:
        ValueError: a number out of its range, or an unknown method.
    """

    method: Annotated[str, OneOf(FUSION_METHODS)] = "cpi"
    scale: float | None = None
    density: Share = 0.2
    core: Share = 0.01
    threshold: Share = 0.1
    rest: Rest = "slerp"
    angle: Angle = "tensor"

    @property
    def share(self) -> float | None:
        """Return the share of all weights that is selected in each model; None where the method selects none."""
        setting = FUSION_METHODS[self.method].share
        return None if setting is None else float(getattr(self, setting))

    @property
    def arcs(self) -> bool:
        """Return whether angles are needed."""
        angles = FUSION_METHODS[self.method].angles
        return angles == "always" or (angles == "rest" and self.rest == "slerp")

    @property
    def factor(self) -> float:
        """Return the scale in force."""
        return FUSION_METHODS[self.method].scale if self.scale is None else self.scale
