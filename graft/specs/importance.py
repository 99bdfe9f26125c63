"""How importance is measured: the options of `graft importance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.specs.block import Block
from graft.specs.ranges import Count


@dataclass(frozen=True)
class ImportanceSpec(Block):
    """How the importance of each weight is measured (`graft.train.importance.measuring`).

    Attributes:
        method: "saliency" (|g * theta|), "fisher" (squared gradients), "movement" (|theta - base|) or "path" (recorded
            while tuning).
        scope: which tensors: layers, embeddings, heads, a sum such as layers+embeddings, all, or a regular expression.
        micro_batch: examples whose gradients are averaged before their size or square is taken; 1 is exact.
    """

    method: Literal["saliency", "fisher", "movement", "path"] = "saliency"
    scope: str = "all"
    micro_batch: Count = 1
