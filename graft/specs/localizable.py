"""The block `localizable` of a train block: training only few weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from graft.specs.block import Block
from graft.specs.ranges import Above

Support = Literal["pull", "gradient"]
PULL_LR = 1e-3
GRADIENT_STEP = 0.25


@dataclass(frozen=True)
class LocalizableSpec(Block):
    """Training of few weights alone, so that they hold the whole skill (`graft.train.localizable`).

    Attributes:
        density: weights that train, as a share of all parameters.
        support: how they are found. "pull": those that a first training with an L1 pull towards the base moves most.
            "gradient": those with the largest gradient of the task's loss at the base, without another training; they
            train with a warm-up, without dropout, and end in the mean over the second half of the steps.
        proximal_lr: learning rate of the first training of "pull", which is by SGD with an L1 proximal step.
        proximal_epochs: passes of the first training of "pull" over the training examples.
        proximal_l1: strength of the pull, in units of the loss's gradient.
        lr: learning rate of the few weights, which train by AdamW; where absent 1e-3 after "pull", and 1 / (4 sqrt(k))
            for k weights after "gradient", so that a step of all of them together is as long for every k.
        epochs: passes of the few weights over the training examples.
    """

    density: Annotated[float, Above(0)] = 1e-4
    support: Support = "pull"
    proximal_lr: Annotated[float, Above(0)] = 1e-1
    proximal_epochs: Annotated[int, Above(0)] = 5
    proximal_l1: Annotated[float, Above(0)] = 1.5e-4
    lr: Annotated[float, Above(0)] | None = None
    epochs: Annotated[int, Above(0)] = 5

    def __post_init__(self) -> None:
        """Refuse keys of a first training where there is none."""
        super().__post_init__()
        keys = ("proximal_lr", "proximal_epochs", "proximal_l1")
        stray = [key for key in keys if getattr(self, key) != type(self).__dataclass_fields__[key].default]
        if self.support == "gradient" and stray:
            raise ValueError(f"{stray[0]} is of the first training, which support: gradient does not have")

    @property
    def trainings(self) -> int:
        """Return how many trainings it takes."""
        return 2 if self.support == "pull" else 1

    def rate_of(self, k: int) -> float:
        """Return the learning rate of k weights."""
        if self.lr is not None:
            return self.lr
        return PULL_LR if self.support == "pull" else GRADIENT_STEP / math.sqrt(k)
