"""Temperature scaling: one number that divides the logits, fitted on validation (Guo et al. 2017, arXiv 1706.04599).

It changes no prediction, so what it does to the ECE and the NLL is calibration alone: the control for "the graft
is better calibrated", since it costs one pass over the validation examples and no localization.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graft.errors import DataError
from graft.evaluate.evaluation import Prediction, Predictions
from graft.evaluate.outcomes import Floats
from graft.tasks.examples import Example
from graft.tasks.following import nll_at
from graft.tasks.heads.completion import CompletionHead
from graft.tasks.heads.lm import LanguageModelHead
from graft.tasks.loading import tell_once

COLDEST, HOTTEST = 1e-2, 1e2  # bounds, since the best temperature of a faultless model is 0, of a useless one ∞
_UNKNOWN = "validation is answered without a fault, which says of no temperature that it is too low: 1 is taken"
# temperatures of tokens, each 1.26 times the one before: usual ones, and those beyond, which overlap with these
_USUAL, _COLDER, _HOTTER = (
    np.geomspace(low, high, n).tolist() for low, high, n in ((0.25, 8, 16), (COLDEST, 0.32, 16), (6.25, HOTTEST, 13))
)


def fit_temperature(validation: Prediction) -> float:
    """Return the T > 0 that minimizes the mean NLL of softmax(logits / T) on the rows whose label is the task's.

    In b = 1/T the NLL is convex, with slope mean(E_p[z] - z_label), so that the minimum is the slope's one root. It is
    sought in ln b between the ends `COLDEST` and `HOTTEST`. Of a useless model, whose best T is above, `HOTTEST` is
    returned; of a faultless one, whose NLL falls as T falls to 0, 1, and a note on stderr: 0 would make it sure of its
    errors elsewhere.

    Raises:
        DataError: no row has one of the task's labels.
    """
    from scipy.optimize import brentq

    is_known = validation.labels >= 0
    if not is_known.any():
        raise DataError("a temperature is fitted on labeled examples, and there are none")
    logits, labels = validation.logits[is_known], validation.labels[is_known]
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of ln b
    if _slope(logits, labels, low) >= 0:
        return HOTTEST
    if _slope(logits, labels, high) <= 0:
        tell_once(_UNKNOWN)
        return 1.0
    return float(np.exp(-brentq(lambda log_b: _slope(logits, labels, log_b), low, high, xtol=1e-15)))


def fit_token_temperature(head: LanguageModelHead | CompletionHead, examples: Sequence[Example], size: int) -> float:
    """Return the T that minimizes the mean NLL of softmax(logits / T) over the tokens that the head predicts.

    Logits over a vocabulary are too many to keep: one pass over the examples sums the NLL at a grid of temperatures,
    and the least of the cubic spline through it in ln T is returned. Where it is an end of the usual grid, a second
    pass goes on from there, and its last end is treated as in `fit_temperature`.

    Args:
        head: over the model.
        examples: of validation.
        size: examples per forward pass.

    Raises:
        DataError, ConfigError: as the head's `inspect`.
    """
    rows = head.flag(examples, "validation")

    def find_least(grid: Sequence[float]) -> float:
        """Return ln of the best temperature of a grid's range."""
        from scipy.interpolate import CubicSpline

        spline = CubicSpline(np.log(grid), nll_at(head, rows, grid, batch_size=size, label="validation"))
        turns = spline.derivative().roots(extrapolate=False)
        return float(min((*turns, *np.log([grid[0], grid[-1]])), key=spline))

    least = find_least(_USUAL)
    if not np.log(_USUAL[0]) < least < np.log(_USUAL[-1]):
        least = find_least(_COLDER if least <= np.log(_USUAL[0]) else _HOTTER)
    if least > np.log(_COLDER[0]):
        return float(np.exp(least))
    tell_once(_UNKNOWN)
    return 1.0


def scale_logits(prediction: Prediction, temperature: float) -> Prediction:
    """Divide the logits by the temperature."""
    return dataclasses.replace(prediction, logits=prediction.logits / temperature)


def scale_predictions(predictions: Predictions, temperature: float) -> Predictions:
    """Divide every set's logits by one temperature."""
    ood = {name: scale_logits(item, temperature) for name, item in predictions.ood.items()}
    return Predictions(scale_logits(predictions.test, temperature), ood)


def _slope(logits: Floats, labels: npt.NDArray[np.int64], log_b: float) -> float:
    """Return d NLL / d b at b = exp(log_b): the mean over rows of E_p[z] - z_label."""
    probabilities = Prediction(logits * np.exp(log_b), labels).probabilities  # (n, n_labels)
    finite = np.where(np.isfinite(logits), logits, 0.0)  # a label that a row lacks has probability 0
    return float(((probabilities * finite).sum(axis=1) - finite[np.arange(len(labels)), labels]).mean())
