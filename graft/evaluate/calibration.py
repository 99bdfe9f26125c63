"""Calibration: proper scores, and the gap between confidence and accuracy.

By hand and not from scikit-learn, whose `calibration_curve` handles two classes and returns no counts of bins, and
because the bootstrap computes all of this on a thousand resamples of the per-example columns.

Every binned metric is computed from one `ReliabilityBins`, which reliability diagrams draw too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from graft.evaluate.outcomes import Booleans, Floats, Integers, Outcomes

Scheme = Literal["width", "mass"]


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Bins of examples by confidence: bin b holds edges[b] <= confidence < edges[b + 1], the last one also 1.0."""

    edges: Floats  # (bins + 1,) ascending from 0 to 1; repeated where ties leave an equal-mass bin empty
    count: Integers  # (bins,) int64
    confidence: Floats  # (bins,) mean confidence, NaN where count is 0
    accuracy: Floats  # (bins,) share correct, NaN where count is 0

    @property
    def gap(self) -> Floats:
        """(bins,) |accuracy - confidence|, 0 where count is 0."""
        return np.where(self.count > 0, np.abs(self.accuracy - self.confidence), 0.0)

    @property
    def share(self) -> Floats:
        """(bins,) count / n; sums to 1."""
        return np.asarray(self.count / self.count.sum(), dtype=np.float64)


def negative_log_likelihood(outcomes: Outcomes) -> float:
    """Return the mean of -ln p(label), nats, in 0..27.6: probabilities are at least `SMALLEST_PROBABILITY`.

    Of written answers it is the mean over all of their tokens.
    """
    if outcomes.n_tokens is not None:
        return float(-outcomes.log_likelihood.sum() / max(1, outcomes.n_tokens.sum()))
    return float(-outcomes.log_likelihood.mean())


def brier_score(outcomes: Outcomes) -> float:
    """Return the mean over examples of Σ over classes (p - one-hot)², in 0..2.

    Brier's own form (1950, Monthly Weather Review 78:1-3): on two classes twice the one-column form.
    """
    return float(outcomes.squared_error.mean())


@lru_cache(maxsize=2)  # of the four binned metrics of a resample, two read each of two tables
def reliability_bins(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width") -> ReliabilityBins:
    """Group examples by the confidence of the predicted class: "width" cuts 0..1 evenly, "mass" at quantiles.

    Equal confidences always share a bin, whatever the order of the rows; so with ties the masses are only
    nearly equal. Raises ValueError where `bins` < 1 or the scheme is unknown.
    """
    edges = _bin_edges(outcomes.confidence, bins, scheme)
    return _summarize(edges, _bin_of(outcomes.confidence, edges), outcomes.confidence, outcomes.correct)


def expected_calibration_error(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width") -> float:
    """Return ECE = Σ_b n_b/n · |accuracy_b - confidence_b|, in 0..1. Biased upward: see `calibration_floor`.

    Equal width as in Guo et al. 2017 (arXiv:1706.04599), whose bins differ from these only in that they include
    their upper and not their lower edge; equal mass as in Nixon et al. 2019 (arXiv:1904.01685).
    """
    table = reliability_bins(outcomes, bins=bins, scheme=scheme)
    return float(table.share @ table.gap)


def equal_mass_calibration_error(outcomes: Outcomes) -> float:
    """Return the ECE over 15 bins of equally many examples, in 0..1 (Nixon et al. 2019, arXiv:1904.01685)."""
    return expected_calibration_error(outcomes, scheme="mass")


def maximum_calibration_error(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width") -> float:
    """Return MCE = max_b |accuracy_b - confidence_b|, in 0..1 (arXiv:1706.04599); one example can make a bin."""
    return float(reliability_bins(outcomes, bins=bins, scheme=scheme).gap.max())


def debiased_calibration_error(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "mass") -> float:
    """Return the root mean square calibration error less its sampling bias, in 0..1 (Kumar et al., arXiv:1909.10155).

    sqrt(max(0, Σ_b n_b/n · [gap_b² - a_b(1 - a_b)/(n_b - 1)])), a_b the accuracy of bin b; the bracket
    is unbiased for the squared gap, as far as confidence is constant in a bin. Chosen over the L1 form in the
    authors' software (Gaussian resampling), which leaves three fifths of the bias: for a calibrated model at
    n = 600 the equal-mass ECE is .050, the L1 form .029, this .015. Gaps that differ put it above their mean.
    A bin of one example has no estimate of its noise and counts as 0; hence equal mass by default.
    """
    table = reliability_bins(outcomes, bins=bins, scheme=scheme)
    # Example: a bin of 10 examples, confidence .80, 9 right. Its gap is .10, squared .0100; but 9 of 10 right has a
    # sampling variance of .9 · .1 / 9 = .0100 by itself, so that the bin says nothing against the model: 0.
    usable = table.count > 1
    a, n = table.accuracy[usable], table.count[usable]
    squared = table.gap[usable] ** 2 - a * (1.0 - a) / (n - 1)
    return float(np.sqrt(max(0.0, float(table.share[usable] @ squared))))


def calibration_floor(
    outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width", draws: int = 200, seed: int = 0
) -> float:
    """Return the mean ECE that these n confidences would show were the model perfectly calibrated, without the labels.

    In each draw example i is correct with probability confidence_i. Raises ValueError where `draws` < 1.
    """
    if draws < 1:
        raise ValueError(f"The calibration floor needs at least one draw, not {draws}.")
    confidence, rng = outcomes.confidence, np.random.default_rng(seed)
    edges = _bin_edges(confidence, bins, scheme)
    index = _bin_of(confidence, edges)
    # an example of confidence .6 is right in six of ten worlds; its bin, which depends on confidence alone, is the same
    worlds = (rng.random(len(outcomes)) < confidence for _ in range(draws))  # (n,) bool each
    tables = (_summarize(edges, index, confidence, correct) for correct in worlds)
    return float(np.mean([table.share @ table.gap for table in tables]))


def _bin_edges(confidence: Floats, bins: int, scheme: Scheme) -> Floats:
    if bins < 1:
        raise ValueError(f"The number of bins must be at least 1, not {bins}.")
    if scheme == "width":
        return np.arange(bins + 1) / bins  # unlike linspace, every edge is the float nearest to b/bins
    if scheme != "mass":
        raise ValueError(f"The scheme of bins must be 'width' or 'mass', not {scheme!r}.")
    firsts = np.arange(1, bins) * len(confidence) // bins  # (bins - 1,) ranks at which bins 1, 2, ... begin
    return np.concatenate([[0.0], np.sort(confidence)[firsts], [1.0]])


def _bin_of(confidence: Floats, edges: Floats) -> Integers:
    return np.searchsorted(edges[1:-1], confidence, side="right")  # (n,) in 0..bins-1


def _summarize(edges: Floats, index: Integers, confidence: Floats, correct: Booleans) -> ReliabilityBins:
    bins = len(edges) - 1
    count = np.bincount(index, minlength=bins)  # (bins,)
    divisor = np.where(count > 0, count, np.nan)  # an empty bin has no mean
    mean_confidence = np.bincount(index, weights=confidence, minlength=bins) / divisor
    accuracy = np.bincount(index, weights=correct, minlength=bins) / divisor
    return ReliabilityBins(edges, count, mean_confidence, accuracy)
