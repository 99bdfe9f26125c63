"""Registry of the methods of fusion.

A method is a module of `graft.compose.fusion` with a function from `graft.compose.fusion.chunk.Chunk` to the fused
values, (n,) fp32 or, where bits must survive, in the base's dtype; and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class FusionEntry(Entry):
    """Row of one method of fusion.

    Attributes:
        needs_base: whether it also reads the base's values.
        share: the setting of `FusionSpec` that is the share of all weights to select in each model; None where none is
            selected.
        angles: whether it needs the angles between the models: "rest" where `FusionSpec.rest` is slerp.
        scale: factor of the differences where none is given.
    """

    needs_base: bool = False
    share: str | None = None
    angles: Literal["never", "rest", "always"] = "never"
    scale: float = 1.0


FUSION_METHODS = Registry(
    "fusion method",
    [
        FusionEntry(
            name="mean",
            help="mean of the weights",
            target="graft.compose.fusion.mean:fuse_chunk",
            source="https://arxiv.org/abs/2203.05482",
        ),
        FusionEntry(
            name="slerp",
            help="running spherical mean of the weights, in the order given",
            target="graft.compose.fusion.slerp:fuse_chunk",
            source="Shoemake 1985, Animating rotation with quaternion curves, SIGGRAPH",
            angles="always",
        ),
        FusionEntry(
            name="task-arithmetic",
            help="the base plus the scaled sum of all differences (arXiv 2212.04089)",
            target="graft.compose.fusion.task_arithmetic:fuse_chunk",
            source="https://arxiv.org/abs/2212.04089",
            needs_base=True,
            scale=0.4,  # the paper's, where there is no data to choose by
        ),
        FusionEntry(
            name="ties",
            help="mean of the largest differences that agree in sign, added to the base (arXiv 2306.01708)",
            target="graft.compose.fusion.ties:fuse_chunk",
            source="https://arxiv.org/abs/2306.01708",
            needs_base=True,
            share="density",
        ),
        FusionEntry(
            name="cpi",
            help="weights that changed most transplanted, the rest interpolated (like CPI-FT, arXiv 2508.21741)",
            target="graft.compose.fusion.cpi:fuse_chunk",
            source="https://arxiv.org/abs/2508.21741",
            share="core",
            angles="rest",
        ),
    ],
)
