"""Metrics of continual learning, from R[s, i], the accuracy on task i after stage s, for i <= s.

    average      mean over i <= s of R[s, i]
    transfer     mean over i < s of R[s, i] - R[i, i]: backward transfer (Lopez-Paz and Ranzato 2017, arXiv 1706.08840)
    forgetting   mean over i < s of max over t < s of R[t, i] - R[s, i] (Chaudhry et al. 2018, arXiv 1801.10112)

After stages with R = [[.9], [.7, .8]] the average is .75, transfer .7 - .9 = -.2 and forgetting .2.

Forgetting takes the best of noisy accuracies, which biases it upward; transfer is unbiased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Triangle = Sequence[Sequence[float]]


@dataclass(frozen=True)
class StageMetrics:
    """Metrics after one stage: average accuracy; backward transfer and forgetting, 0 after the first."""

    average: float
    transfer: float
    forgetting: float


def follow_stages(accuracies: Triangle) -> tuple[StageMetrics, ...]:
    """Compute the metrics after every stage.

    Args:
        accuracies: row s holds the accuracies on tasks 0 ... s after stage s.

    Raises:
        ValueError: a row has another length.
    """
    if any(len(row) != s + 1 for s, row in enumerate(accuracies)):
        raise ValueError("row s must hold the accuracies on tasks 0 ... s")
    return tuple(_measure_stage(accuracies, s) for s in range(len(accuracies)))


def _measure_stage(accuracies: Triangle, s: int) -> StageMetrics:
    now, earlier = accuracies[s], range(s)
    gains = [now[i] - accuracies[i][i] for i in earlier]
    losses = [max(accuracies[t][i] for t in range(i, s)) - now[i] for i in earlier]
    return StageMetrics(sum(now) / (s + 1), sum(gains) / max(s, 1), sum(losses) / max(s, 1))
