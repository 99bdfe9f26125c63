"""What every method keeps at every size, over the seeds of a recipe about extraction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graft.evaluate.registry import METRICS
from graft.evaluate.t_interval import mean_intervals
from graft.extraction.registry import EXTRACTION_METHODS
from graft.results.cells import MISSING, file_size, mean_cell
from graft.results.seeds import ExtractionSeed
from graft.results.tables import TextTable

Metrics = Mapping[str, Mapping[str, Any]]  # model -> metric -> mean, half, values

_COLUMNS = {
    "accuracy": METRICS["accuracy"].heading,
    "recovered_gain": "gain",
    "kl": "KL, nats",
    "ece": METRICS["ece"].heading,
    "nll": METRICS["nll"].heading,
}


def summarize(seeds: Sequence[ExtractionSeed]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return model -> metric -> mean, half-width of the 95 % t-interval over seeds, and values.

    Models are base, tuned, and each point by a name such as "svd, rank 4"; metrics are those of the seeds, with
    n_bytes and, of points, seconds. A model or metric that a seed lacks is left out.
    """
    tables = [_name_models(seed) for seed in seeds]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: mean_intervals([table[name] for table in tables]) for name in shared}


def tabulate_run(metrics: Metrics) -> TextTable:
    """Return a row per model: bytes, how many times smaller than the tuned weights, and the metrics."""
    whole = metrics["tuned"]["n_bytes"]["mean"]
    sets = [key for key in metrics["tuned"] if "." in key]  # SET.accuracy and SET.ece
    columns = {**_COLUMNS, **{key: key.replace(".accuracy", "").replace(".ece", " ECE") for key in sets}}
    rows = []
    for name, row in metrics.items():
        n_bytes = row["n_bytes"]["mean"] if "n_bytes" in row else None
        size = (MISSING, MISSING) if n_bytes is None else (file_size(n_bytes), f"{whole / n_bytes:,.0f}")
        rows.append([name, *size, *(mean_cell(row.get(key)) for key in columns)])
    return TextTable(["model", "bytes", "times smaller", *columns.values()], rows)


def tabulate_methods(methods: Iterable[str]) -> TextTable:
    """Return a row per method: what it is, what it needs, and where it is described."""
    entries = [EXTRACTION_METHODS[method] for method in methods]
    rows = [[entry.name, entry.help, entry.needs, entry.source or MISSING] for entry in entries]
    return TextTable(["method", "what it is", "needs", "source"], rows)


def _name_models(seed: ExtractionSeed) -> dict[str, dict[str, float]]:
    points = {
        EXTRACTION_METHODS[point.method].name_at(point.size): {
            "n_bytes": point.n_bytes,
            **point.numbers,
            "seconds": point.seconds,
        }
        for point in seed.points
    }
    return {"base": dict(seed.base), "tuned": {"n_bytes": seed.n_bytes, **seed.tuned}, **points}
