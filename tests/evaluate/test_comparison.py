from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.evaluate.comparison import (
    agreement,
    compare,
    compare_without,
    differences,
    evaluate_against,
    recovered_gain,
)
from graft.evaluate.evaluation import Prediction, Predictions, evaluate_task, predict_task
from graft.evaluate.necessity import lost_gain
from graft.localize.diff import diff_checkpoints
from graft.tasks.head import open_head
from graft.tasks.task import Task


def one_hot(right: list[int], labels: list[int]) -> Predictions:
    """A sure model of two classes that is right where `right` is 1; the last row belongs to no class."""
    predicted = [label if hit else 1 - label for hit, label in zip(right, labels, strict=True)]
    test = Prediction(np.log(np.eye(2)[predicted] * 0.8 + 0.1), np.array(labels))
    odd = Prediction(np.log(np.eye(2)[[*predicted, 0]] * 0.8 + 0.1), np.array([*labels, -1]))
    return Predictions(test, {"odd": odd, "novel": Prediction(np.eye(2), np.array([-1, -1]))})


LABELS = [0, 1, 0, 1, 1]
BASE, GRAFT, TUNED = (one_hot(right, LABELS) for right in ([1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 1]))


def test_figures_by_hand() -> None:
    report = compare(GRAFT, BASE, TUNED)
    assert report.recovered_gain == pytest.approx((0.6 - 0.2) / (0.8 - 0.2))
    assert report.agreement == pytest.approx(2 / 5)  # of the same class in rows 2 and 3
    assert report.ood["odd"].agreement == pytest.approx(2 / 5)  # the row of no class is left out
    assert report.ood["odd"].recovered_gain == pytest.approx(2 / 3)
    assert list(report.ood) == ["odd"]


def test_a_model_agrees_with_itself_and_has_its_own_gain() -> None:
    assert agreement(TUNED.test.outcomes(), TUNED.test.outcomes()) == 1
    assert compare(TUNED, BASE, TUNED).recovered_gain == 1
    assert compare(BASE, BASE, TUNED).recovered_gain == 0
    assert compare(TUNED, BASE, TUNED).agreement == 1
    assert recovered_gain(0.5, 0.7, 0.7) is None
    assert recovered_gain(0.6, 0.8, 0.7) is lost_gain(0.6, 0.8, 0.7) is None  # a share of a loss is no gain


def test_the_lost_gain_is_what_the_region_alone_held() -> None:
    without = compare_without(GRAFT, BASE, TUNED)
    assert without.lost_gain == pytest.approx((0.8 - 0.6) / (0.8 - 0.2))
    assert without.ood["odd"].lost_gain == pytest.approx(1 / 3)
    assert without.recovered_gain == pytest.approx(2 / 3)
    assert (compare_without(TUNED, BASE, TUNED).lost_gain, compare_without(BASE, BASE, TUNED).lost_gain) == (0, 1)
    assert compare(GRAFT, BASE, TUNED).lost_gain is None
    assert lost_gain(0.5, 0.7, 0.7) is None


def test_differences_by_hand() -> None:
    both = differences(GRAFT, {"base": BASE, "graft": GRAFT})
    assert list(both) == ["base", "graft"]
    found = both["base"]
    assert list(found) == ["test", "odd"]
    assert list(found["test"]) == ["accuracy", "nll", "brier", "ece"]
    assert found["test"]["brier"].estimate == pytest.approx(-0.4 * (2 * 0.9**2 - 2 * 0.1**2))
    assert found["test"]["nll"].estimate == pytest.approx(-0.4 * np.log(9))
    gain = found["test"]["accuracy"]
    assert gain.estimate == pytest.approx(0.4)
    assert gain.low <= gain.estimate <= gain.high
    itself = both["graft"]["test"]["ece"]
    assert (itself.estimate, itself.low, itself.high) == (0, 0, 0)


def test_a_patch_against_base_and_tuned(base: Path, tuned: Path, task: Task) -> None:
    patch = diff_checkpoints(base, tuned)
    whole = evaluate_against(base, tuned, task, patches=(patch,))
    assert (whole.agreement, whole.recovered_gain) == (1, 1)
    assert whole.metrics == evaluate_task(tuned, task).metrics
    nothing = evaluate_against(base, tuned, task)
    assert nothing.recovered_gain == 0
    assert nothing.agreement is not None
    assert nothing.agreement < 1
    some = evaluate_against(base, tuned, task, patches=(diff_checkpoints(base, tuned, density=0.2),), limit=40)
    assert some.n == 40
    assert some.recovered_gain is not None
    predictions = [predict_task(open_head(path, task.spec), task, limit=40) for path in (base, tuned)]
    before, after = (item.report()["accuracy"] for item in predictions)
    assert some.recovered_gain == pytest.approx((some["accuracy"] - before) / (after - before))


def test_detection_is_measured_where_rows_are_of_no_class(base: Path, tuned: Path, task: Task) -> None:
    alone = evaluate_against(tuned, None, task)
    assert {name: figures["n_out"] for name, figures in alone.detection.items()} == {"meals": 1, "novel": 8}
    assert (alone.recovered_gain, alone.agreement) == (None, None)
    patch = diff_checkpoints(base, tuned)
    against = evaluate_against(base, tuned, task, patches=(patch,))
    assert (against.detection, against.metrics) == (alone.detection, alone.metrics)
