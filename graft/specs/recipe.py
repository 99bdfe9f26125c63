"""Blocks that recipes of every kind share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graft.specs.block import Block
from graft.specs.ranges import check_seed


@dataclass(frozen=True)
class EvaluateSpec(Block):
    """The evaluation of models.

    Attributes:
        batch_size: examples per forward pass.
        limit: examples of each set, the first so many; all where absent.
    """

    batch_size: int = 64
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers below 1."""
        super().__post_init__()
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("batch_size and limit must be 1 or more")


@dataclass(frozen=True)
class Expectation(Block):
    """The value that a metric should come to, as the mean over seeds.

    Attributes:
        value: what the number should come to, as the mean over seeds.
        tolerance: how far from it the mean may be.
    """

    value: float
    tolerance: float


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that a recipe cannot have.

    Raises:
        ValueError: there is none, two are the same, or one is no seed to all of the generators in use.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError("seeds must be one or more different whole numbers")
    for seed in seeds:
        check_seed(seed)
