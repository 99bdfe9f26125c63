"""The blocks that recipes of every kind share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.specs.ranges import check_seed


@dataclass(frozen=True)
class EvaluateSpec:
    """How to evaluate.

    Attributes:
        batch_size: examples per forward pass.
        limit: examples of each set, the first so many; all where absent.
    """

    batch_size: int = 64
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("batch_size and limit must be 1 or more")


@dataclass(frozen=True)
class Expectation:
    """What a figure should come to, as the mean over seeds.

    Attributes:
        value: what it should be.
        tolerance: how far from it the mean may be.
    """

    value: float
    tolerance: float


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse what are no seeds of a recipe.

    Raises:
        ValueError: there is none, two are the same, or one is no seed to all of the generators in use.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError("seeds must be one or more different whole numbers")
    for seed in seeds:
        check_seed(seed)


def find_base(recipe: Path, base: str) -> str:
    """Return a base that lies at a path relative to the recipe, as its task does; any other as it stands."""
    beside = recipe.parent / base
    return os.path.normpath(beside) if beside.is_dir() else base
