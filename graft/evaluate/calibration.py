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

from graft.evaluate.outcomes import Booleans, Floats, Integers, Number, Outcomes, as_number, count_numbers, split_draws

Scheme = Literal["width", "mass"]


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Bins of examples by confidence: bin b holds edges[b] <= confidence < edges[b + 1], the last one also 1.0.

    Of many resamples at once (`Outcomes`) they are (draws, bins) where they differ.
    """

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
        return np.asarray(self.count / self.count.sum(axis=-1, keepdims=True), dtype=np.float64)


def negative_log_likelihood(outcomes: Outcomes) -> Number:
    """Return the mean of -ln p(label), nats, in 0..27.6: probabilities are at least `SMALLEST_PROBABILITY`.

    Of written answers it is the mean over all of their tokens.
    """
    if outcomes.n_tokens is not None:
        return as_number(-outcomes.log_likelihood.sum(axis=-1) / np.maximum(1, outcomes.n_tokens.sum(axis=-1)))
    return as_number(-outcomes.log_likelihood.mean(axis=-1))


def brier_score(outcomes: Outcomes) -> Number:
    """Return the mean over examples of Σ over classes (p - one-hot)², in 0..2.

    Brier's own form (1950, Monthly Weather Review 78:1-3): on two classes twice the one-column form.
    """
    return as_number(outcomes.squared_error.mean(axis=-1))


@lru_cache(maxsize=2)  # of the four binned metrics of a resample, two read each of two tables
def reliability_bins(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width") -> ReliabilityBins:
    """Group examples by the confidence of the predicted class: "width" cuts 0..1 evenly, "mass" at quantiles.

    Equal confidences always share a bin, whatever the order of the rows; so with ties the masses are only
    nearly equal. Raises ValueError where `bins` < 1 or the scheme is unknown.
    """
    edges = _bin_edges(outcomes.confidence, bins, scheme)
    return _summarize(edges, _bin_of(outcomes.confidence, edges), outcomes.confidence, outcomes.correct)


def expected_calibration_error(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width") -> Number:
    """Return ECE = Σ_b n_b/n · |accuracy_b - confidence_b|, in 0..1. Biased upward: see `calibration_floor`.

    Equal width as in Guo et al. 2017 (arXiv:1706.04599), whose bins differ from these only in that they include
    their upper and not their lower edge; equal mass as in Nixon et al. 2019 (arXiv:1904.01685).
    """
    table = reliability_bins(outcomes, bins=bins, scheme=scheme)
    return as_number(_dot(table.share, table.gap))


def equal_mass_calibration_error(outcomes: Outcomes) -> Number:
    """Return the ECE over 15 bins of equally many examples, in 0..1 (Nixon et al. 2019, arXiv:1904.01685)."""
    return expected_calibration_error(outcomes, scheme="mass")


def maximum_calibration_error(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "width") -> Number:
    """Return MCE = max_b |accuracy_b - confidence_b|, in 0..1 (arXiv:1706.04599); one example can make a bin."""
    return as_number(reliability_bins(outcomes, bins=bins, scheme=scheme).gap.max(axis=-1))


def debiased_calibration_error(outcomes: Outcomes, *, bins: int = 15, scheme: Scheme = "mass") -> Number:
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
    a, n = table.accuracy, table.count
    squared = table.gap**2 - a * (1.0 - a) / np.maximum(n - 1, 1)
    rows = zip(*map(np.atleast_2d, (table.share, squared, n > 1)), strict=True)  # each has bins of its own to use
    sums = np.reshape([share[usable] @ gap[usable] for share, gap, usable in rows], n.shape[:-1])
    return as_number(np.sqrt(np.maximum(0.0, sums)))


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
    n = len(outcomes)
    worlds = (rng.random((stack, n)) < confidence for stack in split_draws(draws, n))  # (stack, n) bool each
    tables = (_summarize(edges, index, confidence, correct) for correct in worlds)
    return float(np.mean(np.concatenate([_dot(table.share, table.gap) for table in tables])))


def _bin_edges(confidence: Floats, bins: int, scheme: Scheme) -> Floats:
    if bins < 1:
        raise ValueError(f"The number of bins must be at least 1, not {bins}.")
    if scheme == "width":
        return np.arange(bins + 1) / bins  # unlike linspace, every edge is the float nearest to b/bins
    if scheme != "mass":
        raise ValueError(f"The scheme of bins must be 'width' or 'mass', not {scheme!r}.")
    firsts = np.arange(1, bins) * confidence.shape[-1] // bins  # (bins - 1,) ranks at which bins 1, 2, ... begin
    inner, end = np.sort(confidence)[..., firsts], np.ones((*confidence.shape[:-1], 1))
    return np.concatenate([0.0 * end, inner, end], axis=-1)


def _bin_of(confidence: Floats, edges: Floats) -> Integers:
    """Return in which bin, 0..bins-1, each confidence lies; (draws, bins + 1) edges are of a resample each."""
    if edges.ndim == 1:
        return np.searchsorted(edges[1:-1], confidence, side="right")
    return np.stack([_bin_of(*row) for row in zip(confidence, edges, strict=True)])


def _summarize(edges: Floats, index: Integers, confidence: Floats, correct: Booleans) -> ReliabilityBins:
    bins = edges.shape[-1] - 1
    count = count_numbers(index, bins)
    divisor = np.where(count > 0, count, np.nan)  # an empty bin has no mean
    mean_confidence, accuracy = (count_numbers(index, bins, weights) / divisor for weights in (confidence, correct))
    return ReliabilityBins(edges, count, mean_confidence, accuracy)


def _dot(left: Floats, right: Floats) -> Floats:
    """Return the products of vectors, one of each resample, each added up as numpy adds up that of two vectors."""
    return np.asarray(np.matmul(left[..., None, :], right[..., :, None])[..., 0, 0])
