"""Metrics of several tasks over seeds: what each method reaches, and whether related tasks share a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.compose.task_overlap import TaskOverlap
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.continual_metrics import follow_stages
from graft.evaluate.mantel import mantel_test
from graft.evaluate.t_interval import mean_intervals
from graft.results.seeds import MultitaskSeed
from graft.specs.multitask import BASE

Seeds = Sequence[MultitaskSeed]


def summarize(seeds: Seeds) -> dict[str, dict[str, dict[str, Any]]]:
    """Return method -> metric -> mean, half-width of the 95 % t-interval over seeds, and values.

    Metrics: "accuracy", "ece" and "nll", means over tasks; "gain_kept", the mean accuracy gained over the base as a
    share of that of the models tuned on one task each; "forgetting" and "transfer" of sequences; "TASK.accuracy" and
    so on; "scale" and "validation_accuracy" where something was chosen.
    """
    rows = [{name: _metrics_of(seed, name) for name in seed.methods} for seed in seeds]
    return {name: mean_intervals([row[name] for row in rows]) for name in rows[0]}


def _metrics_of(seed: MultitaskSeed, name: str) -> dict[str, float]:
    methods = seed.methods
    metrics = _over_tasks(methods[name])
    base, tuned = (_over_tasks(methods[other])["accuracy"] for other in (BASE, "tuned"))
    gain = recovered_gain(metrics["accuracy"], base, tuned)
    if name != BASE and gain is not None:
        metrics["gain_kept"] = gain
    if name in seed.stages:
        last = follow_stages(seed.stages[name])[-1]
        metrics |= {"forgetting": last.forgetting, "transfer": last.transfer}
    chosen = seed.found.get(name, {})
    metrics |= {key: chosen[key] for key in ("validation_accuracy", "scale") if chosen.get(key) is not None}
    return metrics | {f"{task}.{key}": row[key] for task, row in methods[name].items() for key in ("accuracy", "ece")}


def _over_tasks(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in metrics.values()])) for key in ("accuracy", "ece", "nll")}


def agree(overlap: TaskOverlap, seeds: Seeds) -> dict[str, dict[str, float | None]]:
    """Return measure of kinship -> Spearman's rho of the regions' Jaccard similarity with it, and its permutation p."""
    if len(overlap.names) < 3:
        return {}
    result: dict[str, dict[str, float | None]] = {}
    for measure in seeds[0].kinship:
        mean = np.mean([seed.kinship[measure] for seed in seeds], axis=0)
        rho, p = mantel_test(overlap.means["jaccard"], mean)
        result[measure] = {"rho": None, "p": None} if np.isnan(rho) else {"rho": rho, "p": p}
    return result
