"""Correctness of the most probable class: accuracy over all examples, F1 class by class.

Both are by hand and not scikit-learn's, because the bootstrap computes them on a thousand resamples of integer columns;
the tests hold them equal to scikit-learn's.
"""

from __future__ import annotations

import numpy as np

from graft.evaluate.outcomes import Outcomes


def accuracy(outcomes: Outcomes) -> float:
    """Return the share of examples, in 0..1, whose most probable class is the label."""
    return float(outcomes.correct.mean())


def macro_f1(outcomes: Outcomes) -> float:
    """Return the unweighted mean, in 0..1, of the F1 of every class that occurs among the labels.

    Equal to scikit-learn's `f1_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)`.
    A class that is predicted but never a label has no F1 of its own here; it lowers that of the classes it displaces.
    """
    label, n_classes = outcomes.label, outcomes.n_classes
    support = np.bincount(label, minlength=n_classes)  # (n_classes,) = TP + FN
    predicted = np.bincount(outcomes.predicted, minlength=n_classes)  # (n_classes,) = TP + FP
    hits = np.bincount(label[outcomes.correct], minlength=n_classes)  # (n_classes,) = TP
    present = support > 0
    f1 = 2.0 * hits[present] / (support + predicted)[present]  # F1 = 2·TP / (2·TP + FP + FN)
    return float(f1.mean())
