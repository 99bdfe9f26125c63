"""Curve of the recovered gain against density, on validation: it shows whether a skill localizes at all.

The validation split is the one that selection may use (`graft.evaluate.on_validation`), so that a density can be chosen
by the curve and the chosen patch still be reported on test. Each density is a localization of its own: a method that
looks at its own graft (attribution along the graft's path) chooses otherwise for another budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graft.errors import BudgetError
from graft.evaluate.areas import area_interval, area_over_density
from graft.evaluate.bootstrap import Interval
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.on_validation import Answers, OnValidation
from graft.evaluate.rounding import reaches
from graft.localize.changes import Changes
from graft.localize.context import ScoreCache, follows_budget
from graft.localize.localization import localize_skill
from graft.sources.opening import Model, open_pair
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import to_plain
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.loading import tell
from graft.tasks.task import Task
from graft.tensors.scope import Scope

DENSITIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
ENOUGH = 0.9  # of the gain


@dataclass(frozen=True)
class CurvePoint:
    """Graft of one density, measured on validation.

    Attributes:
        density: share of all parameters, as requested.
        k: entries kept.
        accuracy: of the graft, 0 to 1.
        gain: (accuracy - base) / (tuned - base); None where tuning gained nothing.
    """

    density: float
    k: int
    accuracy: float
    gain: float | None


@dataclass(frozen=True)
class GainCurve:
    """Recovered gain against density, on validation.

    Attributes:
        method: name of the method that chose the entries.
        n: validation examples.
        base, tuned: accuracy of both models on them.
        points: by ascending density.
        interval: 95 % of the area for the choice of examples; None where it is not known, as of heads without labels.
    """

    method: str
    n: int
    base: float
    tuned: float
    points: tuple[CurvePoint, ...]
    interval: Interval | None = None

    @property
    def area(self) -> float | None:
        """Area under the gains over the logarithm of the density, 0 to 1 from base to tuned (`graft.evaluate.areas`).

        It is None where there are not two points, or nothing was gained.
        """
        gains = {point.density: point.gain for point in self.points if point.gain is not None}
        return area_over_density(gains) if self.tuned > self.base else None

    @property
    def reached(self) -> CurvePoint | None:
        """The sparsest point with `ENOUGH` of the gain; None where there is none, or nothing was gained."""
        if self.tuned <= self.base:
            return None
        return next((point for point in self.points if point.gain is not None and reaches(point.gain, ENOUGH)), None)

    @property
    def sentence(self) -> str:
        """The density at which enough of the gain is reached, in words."""
        if self.tuned <= self.base:
            return (
                f"Tuning did not raise the validation accuracy ({self.base:.3f} before, {self.tuned:.3f} after): "
                "there is no gain to recover."
            )
        if (point := self.reached) is not None:
            return f"{ENOUGH:.0%} of the gain is reached at a density of {point.density:g} ({point.k:,} weights)."
        best = max(self.points, key=lambda point: point.gain or 0.0)
        return (
            f"No density up to {self.points[-1].density:g} recovers {ENOUGH:.0%} of the gain; "
            f"the most is {best.gain or 0.0:.0%} at {best.density:g}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and the sentence."""
        result: dict[str, Any] = to_plain(self)
        return result | {
            "reached": self.reached.density if self.reached else None,
            "area": self.area,
            "sentence": self.sentence,
        }


def measure_curve(
    base: Model,
    tuned: Model,
    task: Task,
    config: LocalizeSpec | None = None,
    *,
    general: Task | None = None,
    densities: Sequence[float] = DENSITIES,
    runtime: Runtime = DEFAULT,
) -> GainCurve:
    """Localize at each density and measure the grafts on the validation split.

    Args:
        base, tuned: the models, as for `localize_skill`.
        task: training examples for the localization, validation examples for the measurement.
        config: how to choose; its density and budget are replaced.
        general: general texts, as for `localize_skill`.
        densities: shares of all parameters; those that cannot be had are left out, with a line on stderr that says why:
            they keep no entry or more than changed, or no mask of the structure or rank asked for has their size.
        runtime: where and how the models run.

    Raises:
        BudgetError: the checkpoints are equal in scope, or no density can be had.
        MismatchError, PatchMismatchError, CheckpointError, DataError, ConfigError: an input is refused; it says why.
    """
    config = config or LocalizeSpec()
    budgets = _budgets(base, tuned, config.scope, densities)
    validation = OnValidation.open(base, tuned, task, config.batch_size, runtime)
    points, answers, refusals = [], [], list[BudgetError]()
    # scores that follow the budget would be of no use again
    cache: ScoreCache | None = None if follows_budget(config.method, config) else {}
    for density, k in budgets.items():
        at_density = dataclasses.replace(config.at(density), budget=k)
        try:
            patch = localize_skill(base, tuned, task, at_density, general=general, score_cache=cache, **runtime.options)
        except BudgetError as error:
            tell_left_out(density, error)
            refusals.append(error)
            continue
        answers.append(validation.answer(patch))
        gain = recovered_gain(answers[-1].accuracy, validation.base, validation.tuned)
        points.append(CurvePoint(density, len(patch), answers[-1].accuracy, gain))
    if not points:
        raise BudgetError(f"none of the densities can be had: at {max(budgets):g} {refusals[-1]}") from refusals[-1]
    interval = _interval(validation, [point.density for point in points], answers)
    n, base_accuracy, tuned_accuracy = len(validation.examples), validation.base, validation.tuned
    return GainCurve(config.method, n, base_accuracy, tuned_accuracy, tuple(points), interval)


def tell_left_out(density: float, why: object, method: str = "") -> None:
    """Say on stderr that a curve has no point at a density, and why."""
    tell(f"note: {method and f'{method} at '}density {density:g} is left out of the curve: {why}")


def split_densities(
    densities: Sequence[float], n_parameters: int, n_changed: int
) -> tuple[dict[float, int], dict[float, str]]:
    """Return the densities that keep at least 1 and at most the changed entries, and why the others do not.

    Returns:
        Density -> entries, by ascending density; and density -> reason.
    """
    budgets = {density: int(density * n_parameters + 0.5) for density in sorted(densities)}
    possible = {density: k for density, k in budgets.items() if 1 <= k <= n_changed}
    reasons = {
        density: f"it keeps {k:,} entries, and {n_changed:,} in scope changed" if k else "it keeps no entry"
        for density, k in budgets.items()
        if density not in possible
    }
    return possible, reasons


def _interval(validation: OnValidation, densities: Sequence[float], answers: Sequence[Answers]) -> Interval | None:
    grafts = [item.right for item in answers if item.right is not None]
    base, tuned = validation.of_base.right, validation.of_tuned.right
    if base is None or tuned is None or len(densities) < 2:
        return None
    return area_interval(densities, grafts, base, tuned)


def _budgets(base: Model, tuned: Model, scope: str, densities: Sequence[float]) -> dict[float, int]:
    pair = open_pair(base, tuned).without_rounding()
    names = pair.names_in(Scope(scope))
    changed = sum(Changes(pair, names).counts.values())
    possible, left_out = split_densities(densities, pair.base.n_parameters, changed)
    if not possible:
        raise BudgetError(f"none of the densities keeps at least 1 and at most the {changed:,} entries that changed")
    for density, why in left_out.items():
        tell_left_out(density, why)
    return possible
