"""What every method finds of a planted mask, over the seeds of a recipe of kind planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.evaluate.t_interval import mean_intervals
from graft.registry import name_number
from graft.results.cells import cell, fixed, mean_cell
from graft.results.planted import PlantedCell, PlantedSeed
from graft.results.tables import TextTable

Metrics = Mapping[str, Mapping[str, Any]]  # model -> metric -> mean, half, values


def summarize(seeds: Sequence[PlantedSeed]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return model -> metric -> mean, half-width of the 95 % t-interval over seeds, and values.

    Models are base; "planted" and "drifted" of each place; and each method there, as in "taylor, density 0.001, drift
    1, overlap 0". A metric that a seed lacks is left out.
    """
    tables = [_name_models(seed) for seed in seeds]
    return {name: mean_intervals([table[name] for table in tables]) for name in tables[0]}


def tabulate_cells(metrics: Metrics, seed: PlantedSeed, metric: str) -> TextTable:
    """Return a row per place of the ladder, with the accuracies that frame it, and a column per method."""
    methods = list(seed.cells[0].methods)
    rows = [
        [
            *(name_number(number) for number in (place.density, place.ratio, place.overlap)),
            *(mean_cell(metrics[f"{end}, {place.name}"]["accuracy"]) for end in ("planted", "drifted")),
            *(mean_cell(metrics[f"{method}, {place.name}"].get(metric)) for method in methods),
        ]
        for place in seed.cells
    ]
    return TextTable(["density", "drift", "overlap", "acc. planted", "drifted", *methods], rows)


def tabulate_seconds(metrics: Metrics) -> TextTable:
    """Return a row per method: seconds of a localization, the mean over places and seeds."""
    seconds: dict[str, list[float]] = {}
    for name, row in metrics.items():
        if "seconds" in row:
            seconds.setdefault(name.partition(",")[0], []).extend(row["seconds"]["values"])
    show = fixed(1)
    rows = [[method, cell(sum(values) / len(values), show=show)] for method, values in seconds.items()]
    return TextTable(["method", "seconds"], rows)


def _name_models(seed: PlantedSeed) -> dict[str, Mapping[str, float]]:
    models: dict[str, Mapping[str, float]] = {"base": {"accuracy": seed.base}}
    for place in seed.cells:
        models |= _name_cell(place)
    return models


def _name_cell(place: PlantedCell) -> dict[str, Mapping[str, float]]:
    ends = {"planted": place.planted, "drifted": place.drifted}
    return {
        **{f"{end}, {place.name}": {"accuracy": accuracy} for end, accuracy in ends.items()},
        **{f"{method}, {place.name}": numbers for method, numbers in place.methods.items()},
    }
