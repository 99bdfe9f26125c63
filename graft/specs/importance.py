"""The options of `graft importance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from graft.scores.registry import IMPORTANCE_SCORES
from graft.specs.block import Block
from graft.specs.ranges import Count, OneOf


@dataclass(frozen=True)
class ImportanceSpec(Block):
    """The measurement of how much each weight matters (`graft.train.importance.measuring`).

    Attributes:
        method: how the importance of a weight is measured.
        scope: which tensors: layers, embeddings, heads, a sum such as layers+embeddings, all, or a regular expression.
        micro_batch: examples whose gradients are averaged before their size or square is taken; 1 is exact.
    """

    method: Annotated[str, OneOf(IMPORTANCE_SCORES)] = "saliency"
    scope: str = "all"
    micro_batch: Count = 1
