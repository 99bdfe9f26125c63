"""The block `peft` of a method: an adapter that trains in place of the weights, and is merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.specs.block import Block
from graft.specs.ranges import Count


@dataclass(frozen=True)
class AdapterSpec(Block):
    """An adapter (`graft.train.adapter`).

    Attributes:
        kind: "lora" (arXiv 2106.09685) or "shira" (arXiv 2406.13175).
        rank: r; an adapter of an (m, n) layer has r (m + n) weights.
        alpha: lora: numerator of the factor alpha / r of its product; 2 r where absent.
        targets: which layers are adapted: "all-linear", or a regular expression that whole names must match.
    """

    kind: Literal["lora", "shira"] = "lora"
    rank: Count = 8
    alpha: float | None = None
    targets: str = "all-linear"
