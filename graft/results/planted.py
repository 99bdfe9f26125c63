"""Results of a seed of a recipe of kind planted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graft.registry import name_number

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class PlantedCell:
    """A planted mask under one drift.

    Attributes:
        density: of the mask, as asked for.
        ratio: root mean square of the drift over that of the planted movement.
        overlap: share of the planted entries that drift too.
        k: planted entries, all of which moved.
        planted, drifted: accuracy on test without the drift and with it.
        methods: method -> recall at k; area: of the recall over the logarithm of the budget, where all budgets that
            were asked for can be had; accuracy and recovered_gain, where planting gained anything, of its graft of k
            entries on test; and seconds, of the localization of k entries. What needs a budget that the method cannot
            fill is left out.
    """

    density: float
    ratio: float
    overlap: float
    k: int
    planted: float
    drifted: float
    methods: Mapping[str, Numbers]

    @property
    def name(self) -> str:
        """Its place on the ladder, in words."""
        density, drift, overlap = map(name_number, (self.density, self.ratio, self.overlap))
        return f"density {density}, drift {drift}, overlap {overlap}"


@dataclass(frozen=True)
class PlantedSeed:
    """Results of one seed of a recipe of kind planted.

    Attributes:
        seed: its number.
        base: accuracy of the base on test.
        cells: by density, then drift, then overlap.
    """

    seed: int
    base: float
    cells: tuple[PlantedCell, ...]
