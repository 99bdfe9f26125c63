"""Areas under the curves over density that the seeds of a run measured."""

from __future__ import annotations

from collections.abc import Sequence

from graft.evaluate.areas import area_over_density
from graft.results.seeds import SingleSeed

SIDES = {"recovered_gain": "sufficiency", "lost_gain": "necessity"}  # metric of a point -> what its area says


def areas_of(seeds: Sequence[SingleSeed]) -> dict[str, dict[str, list[float]]]:
    """Return method -> "recovered_gain", "lost_gain" -> the area in each seed, over the densities that all seeds have.

    A method or metric without two such densities is left out.
    """
    curves = [_values_of(seed) for seed in seeds]
    areas: dict[str, dict[str, list[float]]] = {}
    for method, metric in curves[0] if curves else ():
        each = [curve.get((method, metric), {}) for curve in curves]
        shared = set(each[0]).intersection(*each)
        found = [area_over_density({density: values[density] for density in shared}) for values in each]
        known = [area for area in found if area is not None]
        if len(known) == len(seeds):
            areas.setdefault(method, {})[metric] = known
    return areas


def _values_of(seed: SingleSeed) -> dict[tuple[str, str], dict[float, float]]:
    """Return method and metric -> density -> value."""
    values: dict[tuple[str, str], dict[float, float]] = {}
    for point in seed.curve:
        for metric in SIDES:
            if metric in point.numbers:
                values.setdefault((point.method, metric), {})[point.density] = point.numbers[metric]
    return values
