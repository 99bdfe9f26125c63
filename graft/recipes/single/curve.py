"""Gain, calibration and necessity against density, on the test split alone."""

from __future__ import annotations

from graft.controls.application import put_on
from graft.errors import BudgetError
from graft.evaluate.calibration import expected_calibration_error, negative_log_likelihood
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.correctness import accuracy
from graft.evaluate.curve import split_densities, tell_left_out
from graft.evaluate.necessity import cut_removal, lost_gain
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.recipes.single.seed_run import SingleRun
from graft.results.seeds import CurvePoint
from graft.tasks.head import Head


def trace_curve(run: SingleRun, base: float, tuned: float) -> list[CurvePoint]:
    """Return a point per method and density of the recipe's curve; none where there is no curve.

    Args:
        run: the seed at work; each point localizes anew, since methods may look at their own budget.
        base, tuned: accuracy of both on test.

    Returns:
        accuracy, recovered_gain, ece and nll of each point and, where the recipe measures necessity, lost_gain. A
        density that cannot be had has none, and a line on stderr says why: it keeps no entry or more than changed in
        scope, or no mask of the recipe's structure or rank has its size.
    """
    curve = run.recipe.analysis.curve
    if curve is None:
        return []
    n, n_changed = run.pair.base.n_parameters, run.count_changed()
    possible, left_out = split_densities(curve.densities, n, n_changed)
    for density, why in left_out.items():
        tell_left_out(density, why)
    head = run.open(run.recipe.base)
    points = [(method, density) for method in run.recipe.curve_methods for density in possible]
    whole = run.open(run.tuned) if run.recipe.analysis.necessity and points else None
    measured = (_measure(run, head, whole, point, (base, tuned)) for point in points)
    return [point for point in measured if point is not None]


def _measure(
    run: SingleRun, head: Head, whole: Head | None, point: tuple[str, float], ends: tuple[float, float]
) -> CurvePoint | None:
    """Measure a method at a density; None where it has no mask of that size."""
    method, density = point
    try:
        graft = run.find_graft(method, density=density, budget=None, lines=None, bytes=None)
    except BudgetError as error:  # all that was measured before, training among it, would be lost
        tell_left_out(density, error, method)
        return None
    with put_on(head.model, graft):
        outcomes = run.predict_test(head).outcomes()
    gain = recovered_gain(accuracy(outcomes), *ends)
    lost = None if whole is None or not isinstance(graft, Patch) else _measure_lost(run, whole, graft, ends)
    numbers = {
        "accuracy": accuracy(outcomes),
        **({} if gain is None else {"recovered_gain": gain}),
        **({} if lost is None else {"lost_gain": lost}),
        "ece": expected_calibration_error(outcomes),
        "nll": negative_log_likelihood(outcomes),
    }
    return CurvePoint(method, density, graft.k, numbers)


def _measure_lost(run: SingleRun, whole: Head, patch: Patch, ends: tuple[float, float]) -> float | None:
    """Return the share of the gain that the tuned model loses where a region goes back to the base."""
    with apply_patch(whole.model, cut_removal(run.recipe.base, run.tuned, patch.mask)):
        return lost_gain(accuracy(run.predict_test(whole).outcomes()), *ends)
