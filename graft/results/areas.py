"""Areas under the curves over density that the seeds of a run measured."""

from __future__ import annotations

from collections.abc import Sequence

from graft.evaluate.areas import area_over_density
from graft.results.seeds import SingleSeed

SIDES = {"recovered_gain": "sufficiency", "lost_gain": "necessity"}  # metric of a point -> what its area says
Curves = dict[tuple[str, str], dict[float, float]]  # method and metric -> density -> value


def areas_of(seeds: Sequence[SingleSeed]) -> dict[str, dict[str, list[float]]]:
    """Return method -> "recovered_gain", "lost_gain" -> the area in each seed, over the same densities for all methods.

    These are the densities that every seed has of every method with two or more in all seeds; a method or metric
    without two of them is left out.
    """
    curves = [_values_of(seed) for seed in seeds]
    shared = _share_densities(curves)
    areas: dict[str, dict[str, list[float]]] = {}
    for method, metric in curves[0] if curves else ():
        each = [curve.get((method, metric), {}) for curve in curves]
        densities = shared.get(metric, set())
        if all(densities <= values.keys() for values in each):
            found = [area_over_density({density: values[density] for density in densities}) for values in each]
            known = [area for area in found if area is not None]
            if len(known) == len(seeds):
                areas.setdefault(method, {})[metric] = known
    return areas


def describe_range(seeds: Sequence[SingleSeed]) -> str:
    """Return in words over which densities the areas are; empty where there is none."""
    found = _share_densities([_values_of(seed) for seed in seeds])
    ranges = {SIDES[metric]: f"from {min(each):.3g} to {max(each):.3g}" for metric, each in found.items()}
    if len(set(ranges.values())) == 1:
        return next(iter(ranges.values()))
    return ", ".join(f"{words} for {side}" for side, words in ranges.items())


def _share_densities(curves: Sequence[Curves]) -> dict[str, set[float]]:
    """Return metric -> two densities or more that the curves of all methods and seeds have."""
    shared: dict[str, set[float]] = {}
    for method, metric in curves[0] if curves else ():
        own = set(curves[0][method, metric]).intersection(*(curve.get((method, metric), {}) for curve in curves))
        if len(own) > 1:
            shared[metric] = shared.get(metric, own) & own
    return {metric: densities for metric, densities in shared.items() if len(densities) > 1}


def _values_of(seed: SingleSeed) -> Curves:
    """Return method and metric -> density -> value."""
    values: Curves = {}
    for point in seed.curve:
        for metric in SIDES:
            if metric in point.numbers:
                values.setdefault((point.method, metric), {})[point.density] = point.numbers[metric]
    return values
