"""Out-of-distribution detection: scores of the logits that tell the task's examples from others.

Both are higher for examples that look like the task's:

    msp     max_c p_c, the maximum softmax probability (Hendrycks & Gimpel 2017, arXiv 1610.02136)
    energy  -E(x) = ln Σ_c exp(z_c), the negative free energy at T = 1 (Liu et al. 2020, arXiv 2010.03759)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graft.errors import DataError
from graft.evaluate.bootstrap import Interval, basic_interval
from graft.evaluate.evaluation import Predictions
from graft.evaluate.outcomes import Floats, Integers
from graft.tasks.examples import NONE_OF_THESE

PASS_PERCENT = 95  # of the in-distribution examples, at the threshold of FPR@95


@dataclass(frozen=True)
class Detection:
    """Separation of the task's examples from others by one score.

    Attributes:
        auroc: the chance, in 0..1, that an example of the task scores above another one, a tie counting half.
        fpr95: the share of other examples, in 0..1, that pass the threshold which 95 % of the task's pass.
        ci: "auroc", "fpr95" -> 95 % basic bootstrap interval, both kinds of examples resampled.
    """

    auroc: float
    fpr95: float
    ci: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, with the intervals in `ci`."""
        return {"auroc": self.auroc, "fpr95": self.fpr95, "ci": {name: list(ends) for name, ends in self.ci.items()}}


def maximum_probability(logits: Floats) -> Floats:
    """Return (n,) fp64 ln max_c p_c of logits (n, n_labels): max p's order, without its ties at a saturated 1.0."""
    powers = np.sort(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)  # the last column is 1
    return np.asarray(-np.log1p(powers[:, :-1].sum(axis=1)), dtype=np.float64)


def negative_energy(logits: Floats) -> Floats:
    """Return (n,) fp64 ln Σ_c exp(z_c) of logits (n, n_labels), nats."""
    return np.asarray(logits.max(axis=1) - maximum_probability(logits), dtype=np.float64)


DETECTORS: dict[str, Callable[[Floats], Floats]] = {"msp": maximum_probability, "energy": negative_energy}


def measure_detection(inside: npt.ArrayLike, outside: npt.ArrayLike, *, draws: int = 1000, seed: int = 0) -> Detection:
    """Measure AUROC and FPR@95 of scores (n_in,) of the task's examples against scores (n_out,) of others.

    By hand and not scikit-learn's, because the bootstrap computes both on counts at the distinct scores.

    Both are exact with ties. The threshold of FPR@95 is the largest score that at least 95 % of the task's
    examples reach, so it is itself one of their scores, no quantile is interpolated, and another example that
    ties with it passes. Raises DataError where either side is empty or a score is NaN.
    """
    scores = [np.asarray(side, dtype=np.float64) for side in (inside, outside)]
    if not all(side.size for side in scores) or np.isnan(np.concatenate(scores)).any():
        raise DataError("detection needs at least one example of each side, all with a score")
    values, ranks = np.unique(np.concatenate(scores), return_inverse=True)
    sides, rng = (ranks[: scores[0].size], ranks[scores[0].size :]), np.random.default_rng(seed)
    estimates = _auroc_fpr95(*(np.bincount(side, minlength=values.size) for side in sides))
    drawn = np.empty((draws, 2))
    for draw in range(draws):
        resampled = (side[rng.integers(0, side.size, side.size)] for side in sides)
        drawn[draw] = _auroc_fpr95(*(np.bincount(side, minlength=values.size) for side in resampled))
    triples = zip(("auroc", "fpr95"), drawn.T, estimates, strict=True)
    return Detection(*estimates, {name: basic_interval(values, at, limits=(0.0, 1.0)) for name, values, at in triples})


def measure_auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return the AUROC alone, as `measure_detection` gives it."""
    return measure_detection(inside, outside, draws=1).auroc


def detect_ood(
    predictions: Predictions, *, shifted: bool = False, draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Tell each set's rows from the test split's: set -> {"msp", "energy": `Detection` as JSON, "n_in", "n_out"}.

    Args:
        predictions: of one model.
        shifted: take all rows of every set as out of distribution; else only those with label -1 (novel classes), in
            the sets that have any. A language model, which has no labels, has neither.
        draws, seed: of the bootstrap.
    """
    is_known = predictions.test.labels != NONE_OF_THESE
    if not predictions.test.logits.shape[1]:
        return {}
    inside, result = predictions.test.logits[is_known], {}
    for name, item in predictions.ood.items():
        outside = item.logits if shifted else item.logits[item.labels == NONE_OF_THESE]
        if not len(outside):
            continue
        metrics: dict[str, Any] = {
            key: measure_detection(score(inside), score(outside), draws=draws, seed=seed).to_json()
            for key, score in DETECTORS.items()
        }
        result[name] = metrics | {"n_in": len(inside), "n_out": len(outside)}
    return result


def _auroc_fpr95(inside: Integers, outside: Integers) -> tuple[float, float]:
    """Return (AUROC, FPR@95) from counts (m,) of both sides at the m distinct scores in ascending order.

    AUROC = Σ_v in_v · (out_below_v + out_v / 2) / (n_in · n_out), the Mann-Whitney U of Bamber 1975.
    """
    # Example: at the scores .2 .5 .9 lie 1 1 2 of the task's and 2 1 0 others, so that 0 2 3 others are below:
    # (1 · (0 + 1) + 1 · (2 + .5) + 2 · (3 + 0)) / (4 · 3) = .79.
    n_in, n_out = int(inside.sum()), int(outside.sum())
    below = np.cumsum(outside) - outside  # (m,)
    auroc = float((inside * (below + outside / 2)).sum() / (n_in * n_out))
    must_pass = -(-PASS_PERCENT * n_in // 100)  # the ceiling, in whole numbers
    passing = n_in - (np.cumsum(inside) - inside)  # (m,) of the task's at or above each score, descending
    threshold = int((passing >= must_pass).nonzero()[0][-1])
    return auroc, float(outside[threshold:].sum() / n_out)
