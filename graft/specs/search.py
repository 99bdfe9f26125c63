"""The block `search` of a train block: settings chosen on validation, for a task that nobody tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from graft.specs.block import Block
from graft.specs.ranges import Above, AtLeast, Share


@dataclass(frozen=True)
class SearchSpec(Block):
    """A short search on validation (`graft.train.search`), which a TASK without a `train` block gets.

    Few weights train first, as `localizable` says, at one learning rate or another; then all others do, while the few
    stay as they are. The patch of the few keeps what they had learned alone.

    Attributes:
        density: weights that train first, as a share of all parameters: the density of the patch.
        rates: learning rates of the few to try, in this order.
        within: accuracy on validation that the few may lose against the training that finds them, in which all weights
            move; the first rate that loses no more ends the search. Where none does, the most accurate is kept.
        rest_lr: learning rate of all others, by AdamW.
        rest_epochs: passes of all others over the training examples.
    """

    density: Share = 1e-4
    rates: tuple[Annotated[float, Above(0)], ...] = (1e-3, 3e-3)
    within: Annotated[float, AtLeast(0)] = 0.01
    rest_lr: Annotated[float, Above(0)] = 5e-5
    rest_epochs: Annotated[int, Above(0)] = 2

    def __post_init__(self) -> None:
        """Refuse a search without a rate to try, or that tries one twice."""
        super().__post_init__()
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise ValueError("rates must be one or more different learning rates")

    @property
    def trainings(self) -> int:
        """Return how many trainings the search takes at most."""
        return 2 + len(self.rates)
