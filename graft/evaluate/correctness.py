"""Correctness of the most probable class: accuracy over all examples, F1 class by class.

Both are by hand and not scikit-learn's, because the bootstrap computes them on a thousand resamples of integer columns;
the tests hold them equal to scikit-learn's.
"""

from __future__ import annotations

import numpy as np

from graft.evaluate.outcomes import Number, Outcomes, as_number, count_numbers


def accuracy(outcomes: Outcomes) -> Number:
    """Return the share of examples, in 0..1, whose most probable class is the label."""
    return as_number(outcomes.correct.mean(axis=-1))


def macro_f1(outcomes: Outcomes) -> Number:
    """Return the unweighted mean, in 0..1, of the F1 of every class that occurs among the labels.

    Equal to scikit-learn's `f1_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)`.
    A class that is predicted but never a label has no F1 of its own here; it lowers that of the classes it displaces.
    """
    label, n_classes = outcomes.label, outcomes.n_classes
    support = count_numbers(label, n_classes)  # (..., n_classes) = TP + FN
    predicted = count_numbers(outcomes.predicted, n_classes)  # (..., n_classes) = TP + FP
    hits = count_numbers(label, n_classes, outcomes.correct)  # (..., n_classes) = TP
    f1 = 2.0 * hits / np.maximum(support + predicted, 1)  # F1 = 2·TP / (2·TP + FP + FN)
    rows = zip(np.atleast_2d(f1), np.atleast_2d(support > 0), strict=True)  # each has labels of its own
    return as_number(np.reshape([row[present].mean() for row, present in rows], label.shape[:-1]))
