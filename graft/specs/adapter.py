"""The block `peft` of a method: an adapter that trains in place of the weights, and is merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from graft.specs.block import Block
from graft.specs.ranges import Above, Count


@dataclass(frozen=True)
class AdapterSpec(Block):
    """An adapter (`graft.train.adapter`).

    Attributes:
        kind: "lora" (arXiv 2106.09685), "shira" (arXiv 2406.13175) or "osf", orthogonal subspace fine-tuning (arXiv
            2504.07097).
        rank: lora, shira: r; an adapter of an (m, n) layer has r (m + n) weights.
        alpha: lora: numerator of the factor alpha / r of its product; 2 r where absent.
        preserved: osf: share of each layer's singular values, the largest, whose directions stay as they are.
        targets: which layers are adapted: "all-linear", or a regular expression that whole names must match.
    """

    kind: Literal["lora", "shira", "osf"] = "lora"
    rank: Count = 8
    alpha: float | None = None
    preserved: Annotated[float, Above(0, most=0.99)] = 0.5
    targets: str = "all-linear"
