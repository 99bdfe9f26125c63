"""Outcomes: the few numbers of each example that every metric is computed from.

A matrix of class probabilities is reduced once to five columns; metrics and the bootstrap then read
only these, so that a resample costs O(n) and not O(n x classes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Number = Any  # what a metric returns: a float of (n,) outcomes, (draws,) fp64 of (draws, n) ones

# A probability of exactly 0 for the true label, as a float32 softmax can give, would make the mean NLL
# infinite whatever the other examples say; clipped here it costs -ln 1e-12 = 27.6 nats.
SMALLEST_PROBABILITY = 1e-12
ROW_SUM_TOLERANCE = 1e-4
_AT_ONCE = 1 << 18  # rows of resamples that are held at once: 2 MiB a column


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Results of one model on n labeled examples, in their order.

    Built by `from_probabilities`, which checks its input; the constructor itself checks nothing. The examples may be
    the tokens of texts: those of one text depend on each other, so that resampling draws whole texts.

    Columns may be (draws, n), as `take` gives them of many resamples at once: what is computed from them reduces the
    last axis, with each resample's numbers to the last bit as by itself.
    """

    label: Integers  # (n,) int64, in 0..n_classes-1
    predicted: Integers  # (n,) int64, the most probable class; the lowest one where several tie
    confidence: Floats  # (n,) fp64, probability of the predicted class, in 0..1
    log_likelihood: Floats  # (n,) fp64, nats, ln of the true label's probability, in ln(1e-12)..0
    squared_error: Floats  # (n,) fp64, Σ over classes of (p - one-hot)², in 0..2
    n_classes: int  # 0 where answers are no classes, but texts; a label is then any number that tells them apart
    n_tokens: Integers | None = None  # (n,) int64, the tokens that log_likelihood is the sum over; None: of one each
    group: Integers | None = None  # (n,) int64, ascending: rows of one group are drawn together; None: each by itself

    @classmethod
    def from_probabilities(cls, probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Outcomes:
        """Reduce `probabilities` (n, n_classes), any float dtype, and integer `labels` (n,).

        Raises ValueError where n is 0, the shapes differ, a probability is negative or not finite, a row
        does not sum to 1 within 1e-4, or a label is no integer in 0..n_classes-1. Rows are not rescaled.
        """
        p = np.asarray(probabilities, dtype=np.float64)
        y = _integers(labels)
        _check_shapes(p, y)
        _check_probabilities(p)
        _check_labels(y, n_classes=p.shape[1])
        rows = np.arange(len(y))
        predicted = p.argmax(axis=1).astype(np.int64)
        of_label = p[rows, y]  # (n,)
        # Σ_c (p_c - 1[c = y])² without a one-hot matrix; rounding may leave it just below 0
        squared_error = np.maximum((p * p).sum(axis=1) - 2.0 * of_label + 1.0, 0.0)
        return cls(
            label=y,
            predicted=predicted,
            confidence=np.minimum(p[rows, predicted], 1.0),
            log_likelihood=np.log(np.clip(of_label, SMALLEST_PROBABILITY, 1.0)),
            squared_error=squared_error,
            n_classes=p.shape[1],
        )

    def __len__(self) -> int:
        """Return n, the number of examples."""
        return int(self.label.shape[-1])

    @property
    def correct(self) -> Booleans:
        """(n,) bool, true where the predicted class is the label."""
        return np.equal(self.predicted, self.label)

    def take(self, rows: Integers) -> Outcomes:
        """Return the examples at `rows` (m,) or (draws, m) int64, in that order, each any number of times."""
        return Outcomes(
            label=self.label[rows],
            predicted=self.predicted[rows],
            confidence=self.confidence[rows],
            log_likelihood=self.log_likelihood[rows],
            squared_error=self.squared_error[rows],
            n_classes=self.n_classes,
            n_tokens=None if self.n_tokens is None else self.n_tokens[rows],
            group=None if self.group is None else self.group[rows],
        )

    def resample(self, rng: np.random.Generator) -> Integers:
        """Draw the rows of one resample: as many examples, or groups with all their rows, with replacement."""
        if self.group is None:
            return rng.integers(0, len(self), size=len(self))
        starts = np.flatnonzero(np.diff(self.group, prepend=self.group[0] - 1))  # (groups,)
        sizes = np.diff(starts, append=len(self))
        drawn = rng.integers(0, len(starts), size=len(starts))
        # Example: groups of rows 0 1 | 2 | 3 4 5, of which 2 0 2 are drawn: sizes 3 2 3, ends 3 5 8, first rows 3 0 3
        # less their positions 0 3 5 are 3 -3 -2; repeated and added to 0 ... 7 they give the rows 3 4 5 | 0 1 | 3 4 5.
        ends = sizes[drawn].cumsum()  # of each drawn group in the resample
        first = starts[drawn] - ends + sizes[drawn]  # (groups,) its first row, less its position in the resample
        return np.asarray(np.arange(ends[-1]) + np.repeat(first, sizes[drawn]), dtype=np.int64)


def split_draws(draws: int, n: int) -> list[int]:
    """Return how many of so many resamples of n rows are computed at once, one stack after another."""
    step = max(1, _AT_ONCE // n)
    return [min(step, draws - start) for start in range(0, draws, step)]


def as_number(values: npt.ArrayLike) -> Number:
    """Return a float of a single value, and the (draws,) fp64 of many as they are."""
    array = np.asarray(values, dtype=np.float64)
    return array if array.ndim else float(array)


def apply_to_each(metric: Callable[[Outcomes], float], outcomes: Outcomes) -> Number:
    """Return what a metric of one set of examples says of it, or of each of many resamples."""
    if outcomes.label.ndim == 1:
        return metric(outcomes)
    return np.array([metric(outcomes.take(np.asarray(draw))) for draw in range(len(outcomes.label))])


def count_numbers(index: Integers, n: int, weights: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
    """Count how often each of the numbers 0..n-1 is in the last axis of `index`: (..., n); weighted, add weights up."""
    if weights is not None:
        index, weights = np.broadcast_arrays(index, weights)
    # resample i counts in a range of its own, in the order of its examples: sums are those of a resample by itself
    apart = index.reshape(-1, index.shape[-1]) + n * np.arange(index[..., 0].size)[:, None]
    counts = np.bincount(apart.ravel(), None if weights is None else np.ravel(weights), minlength=n * len(apart))
    return counts.reshape(*index.shape[:-1], n)


def _integers(labels: npt.ArrayLike) -> Integers:
    array = np.asarray(labels)
    if array.size and not np.issubdtype(array.dtype, np.integer):  # an empty list is float64; refused below
        raise ValueError(f"Labels must be integers, not {array.dtype}.")
    return array.astype(np.int64)  # a copy, so that the caller's array can change without changing the result


def _check_shapes(probabilities: Floats, labels: Integers) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities must have shape (n, classes) and labels (n,), not {probabilities.shape} and {labels.shape}."
        )
    if probabilities.size == 0:
        raise ValueError("There is nothing to evaluate: probabilities hold no example or no class.")


def _check_probabilities(probabilities: Floats) -> None:
    finite = np.isfinite(probabilities).all(axis=1)  # (n,)
    if not finite.all():
        raise ValueError(f"Probabilities of example {int(finite.argmin())} are not finite.")
    positive = (probabilities >= 0.0).all(axis=1)  # (n,)
    if not positive.all():
        raise ValueError(f"A probability of example {int(positive.argmin())} is negative.")
    sums = probabilities.sum(axis=1)  # (n,)
    worst = int(np.abs(sums - 1.0).argmax())
    if abs(sums[worst] - 1.0) > ROW_SUM_TOLERANCE:
        raise ValueError(f"Probabilities of example {worst} sum to {sums[worst]:.6g}, not to 1.")


def _check_labels(labels: Integers, *, n_classes: int) -> None:
    valid = (labels >= 0) & (labels < n_classes)  # (n,)
    if not valid.all():
        first = int(valid.argmin())
        raise ValueError(f"Label {labels[first]} of example {first} is outside 0..{n_classes - 1}.")
