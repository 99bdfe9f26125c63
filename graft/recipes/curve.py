"""Gain and calibration against density, on the test split alone."""

from __future__ import annotations

from typing import Any

from graft.evaluate.calibration import expected_calibration_error, negative_log_likelihood
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.correctness import accuracy
from graft.patch.live import apply_patch
from graft.recipes.bench import Bench
from graft.tasks.head import Head


def trace_curve(bench: Bench, base: float, tuned: float) -> list[dict[str, Any]]:
    """A point per method and density of the recipe's curve; none where there is no curve.

    Args:
        bench: the seed at work; each point localises anew, since methods may look at their own budget.
        base, tuned: accuracy of both on test.

    Returns:
        method, density (as asked for), k, accuracy, recovered_gain, ece, nll of each point. A density that keeps no
        entry, or more than changed in scope, has none.
    """
    curve = bench.recipe.analysis.curve
    if curve is None:
        return []
    n, n_changed = bench.pair.base.n_parameters, bench.count_changed()
    possible = [density for density in curve.densities if 1 <= int(density * n + 0.5) <= n_changed]
    head = bench.open(bench.recipe.base)
    points = [(method, density) for method in bench.recipe.curve_methods for density in possible]
    return [_measure(bench, head, method, density, base, tuned) for method, density in points]


def _measure(bench: Bench, head: Head, method: str, density: float, base: float, tuned: float) -> dict[str, Any]:
    patch = bench.localize(method, density=density, budget=None)
    with apply_patch(head.model, patch):
        outcomes = bench.predict_test(head).outcomes()
    return {
        "method": method,
        "density": density,
        "k": len(patch),
        "accuracy": accuracy(outcomes),
        "recovered_gain": recovered_gain(accuracy(outcomes), base, tuned),
        "ece": expected_calibration_error(outcomes),
        "nll": negative_log_likelihood(outcomes),
    }
