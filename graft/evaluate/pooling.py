"""Pooling of paired differences over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.evaluate.t_interval import mean_interval


def pool_differences(differences: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Average a paired difference over seeds, with two intervals that answer two questions.

    Args:
        differences: of each seed, "estimate", "low" and "high" of the paired bootstrap over test examples
            (`graft.evaluate.bootstrap.Difference` as JSON).

    Returns:
        mean, half, values: over seeds, with Student's interval mean ± half (`mean_interval`; None for one seed).
            It covers what seeds change: few-shot draws, training order, random masks.
        low, high: the mean of the seeds' own ends. It covers the choice of test examples, for these seeds. All seeds
            are tested on the same examples, so their errors may be correlated: the interval of a mean is no wider than
            the mean of the intervals, and this one is right at worst, too wide (by up to √seeds) at best.
    """
    mean_ends = {end: sum(item[end] for item in differences) / len(differences) for end in ("low", "high")}
    return mean_interval([item["estimate"] for item in differences]) | mean_ends


def pool_seeds(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Pool "main graft minus that model" as model -> set -> metric, where every seed has it."""
    per_seed = [seed["differences"] for seed in seeds]
    return {
        model: {
            name: {
                metric: pool_differences([item[model][name][metric] for item in per_seed])
                for metric in metrics
                if all(metric in item[model][name] for item in per_seed)
            }
            for name, metrics in sets.items()
            if all(name in item[model] for item in per_seed)
        }
        for model, sets in per_seed[0].items()
        if all(model in item for item in per_seed)
    }
