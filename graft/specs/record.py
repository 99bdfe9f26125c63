"""The block `record` of a train block: recording on the way which weights matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from graft.specs.block import Block
from graft.specs.ranges import Above, Count, Share


@dataclass(frozen=True)
class RecordSpec(Block):
    """Recording of the path integral while tuning (`graft.train.importance.synaptic_intelligence`).

    Attributes:
        share: share of the trained weights whose importance is kept.
        xi: damping that keeps Omega finite where a weight hardly moved, in units of the mean squared delta.
        every: steps between records; the delta since the last record is multiplied by the gradient of the step.
            Above 1 it costs less time, and what is recorded is less exact.
    """

    share: Share = 1.0
    xi: Annotated[float, Above(0)] = 1.0
    every: Count = 1
