"""The curve of a rollback: for each number of entries put back, what comes back and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graft.errors import BudgetError
from graft.evaluate.rounding import reaches
from graft.specs.reader import to_plain


@dataclass(frozen=True)
class RollbackPoint:
    """A number of entries put back, measured on validation.

    Attributes:
        k: how many.
        density: the same as a share of all parameters.
        keep: accuracy on the keep task, 0 to 1.
        cost: by how much it is below the tuned model's.
        restore: restore task -> its metric.
        share: of what was lost that is back, the mean over the restore tasks; below 0 where more was lost.
    """

    k: int
    density: float
    keep: float
    cost: float
    restore: Mapping[str, float]
    share: float

    def meets(self, share: float, tolerance: float) -> bool:
        """Return whether the wanted share is back at no more than the tolerance."""
        return reaches(self.share, share) and self.is_cheap(tolerance)

    def is_cheap(self, tolerance: float) -> bool:
        """Return whether it costs no more than the tolerance."""
        return reaches(tolerance, self.cost)


@dataclass(frozen=True)
class RollbackCurve:
    """What comes back against the number of entries, on validation.

    Attributes:
        method: what chose the entries.
        metric: of the restore tasks.
        share, tolerance: the goal.
        keep, n_keep: name of the keep task, and its validation examples.
        keep_base, keep_tuned: its accuracy in both models.
        base, tuned: restore task -> its metric in both models.
        n: restore task -> the examples that it is measured on.
        points: by ascending k.
        fixed: a single number of entries was asked for, which is taken whether it reaches the goal or not.
    """

    method: str
    metric: str
    share: float
    tolerance: float
    keep: str
    n_keep: int
    keep_base: float
    keep_tuned: float
    base: Mapping[str, float]
    tuned: Mapping[str, float]
    n: Mapping[str, int]
    points: tuple[RollbackPoint, ...]
    fixed: bool = False

    @property
    def reached(self) -> RollbackPoint | None:
        """The point with the fewest entries that reaches the goal."""
        return next((point for point in self.points if point.meets(self.share, self.tolerance)), None)

    @property
    def chosen(self) -> RollbackPoint | None:
        """The point that reaches the goal, else the one that restores most within the tolerance, if any does."""
        if self.fixed:
            return self.points[0]
        cheap = [point for point in self.points if point.is_cheap(self.tolerance) and point.share > 0]
        return self.reached or max(cheap, key=lambda point: (point.share, -point.k), default=None)

    @property
    def sentence(self) -> str:
        """What the chosen point gives, in words."""
        point = self.chosen
        goal = f"{self.share:.0%} of what was lost back at {100 * self.tolerance:g} points of {self.keep} or less"
        if point is None:
            most = f"up to {self.points[-1].k:,} entries nothing comes back at that price"
            return f"{goal[0].upper()}{goal[1:]} cannot be had: {most}."
        result = f"{point.share:.0%} of what was lost is back for {100 * point.cost:.1f} points of {self.keep}"
        where = f"{point.k:,} entries ({point.density:.2g} of all weights)"
        if point is self.reached or self.fixed:
            return f"{result}, with {where} put back."
        return f"No number of entries brings {goal}. The most within that price: {result}, with {where} put back."

    def require(self) -> RollbackPoint:
        """Return the chosen point.

        Raises:
            NothingRestored: nothing comes back within the tolerance.
        """
        if self.chosen is None:
            raise NothingRestored(self)
        return self.chosen

    def describe(self, point: RollbackPoint) -> dict[str, Any]:
        """Return what was measured at a point, for a patch's provenance."""
        restore = {
            name: {"base": self.base[name], "tuned": self.tuned[name], "rollback": value, "n": self.n[name]}
            for name, value in point.restore.items()
        }
        keep = {"base": self.keep_base, "tuned": self.keep_tuned, "rollback": point.keep, "n": self.n_keep}
        return {
            "split": "validation",
            "metric": self.metric,
            "share": point.share,
            "reached": point is self.reached,
            "keep": {self.keep: keep},
            "restore": restore,
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and the sentence."""
        chosen = self.chosen
        plain: dict[str, Any] = to_plain(self)
        more = {"reached": self.reached is not None, "chosen": chosen.k if chosen else None, "sentence": self.sentence}
        return plain | more


class NothingRestored(BudgetError):
    """Nothing comes back within the tolerance.

    Attributes:
        curve: what was measured, which may have taken long.
    """

    def __init__(self, curve: RollbackCurve) -> None:
        super().__init__(curve.sentence.rstrip(".") + ": raise --tolerance")
        self.curve = curve
