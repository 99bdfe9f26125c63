"""The block `localizable` of a train block: training only the few weights that a first training picks out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from graft.specs.block import Block
from graft.specs.ranges import Above


@dataclass(frozen=True)
class LocalizableSpec(Block):
    """Training in two stages, so that the skill ends up in few weights (`graft.train.localizable`).

    Attributes:
        density: weights that train in the second stage, as a share of all parameters.
        proximal_lr: learning rate of the first stage, which is by SGD with an L1 proximal step towards the base.
        proximal_epochs: passes of the first stage over the training examples.
        proximal_l1: strength of the L1 pull of the first stage, in units of the loss's gradient.
        lr: learning rate of the second stage, which is by AdamW.
        epochs: passes of the second stage over the training examples.
    """

    density: Annotated[float, Above(0)] = 1e-4
    proximal_lr: Annotated[float, Above(0)] = 1e-1
    proximal_epochs: Annotated[int, Above(0)] = 5
    proximal_l1: Annotated[float, Above(0)] = 1.5e-4
    lr: Annotated[float, Above(0)] = 1e-3
    epochs: Annotated[int, Above(0)] = 5
