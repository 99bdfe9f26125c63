from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score, roc_curve

from graft.errors import DataError
from graft.evaluate.detection import detect_ood, maximum_probability, measure_detection, negative_energy
from graft.evaluate.evaluation import Prediction, Predictions

few_values = st.lists(st.integers(0, 6), min_size=1, max_size=40)  # full of ties


@settings(derandomize=True, deadline=None)
@given(few_values, few_values)
def test_auroc_and_fpr_are_scikit_learn_s_also_with_ties(inside: list[int], outside: list[int]) -> None:
    found = measure_detection(inside, outside, draws=1)
    labels, scores = [1] * len(inside) + [0] * len(outside), inside + outside
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])


@settings(derandomize=True, deadline=None)
@given(few_values, few_values)
def test_the_two_sides_mirror_each_other_and_only_order_counts(inside: list[int], outside: list[int]) -> None:
    there, back = (measure_detection(*sides, draws=1) for sides in ((inside, outside), (outside, inside)))
    assert there.auroc + back.auroc == pytest.approx(1)
    stretched = measure_detection(np.exp(inside), np.exp(outside), draws=1)
    assert (stretched.auroc, stretched.fpr95) == (there.auroc, there.fpr95)


def test_figures_by_hand() -> None:
    inside = np.arange(1, 21)  # 19 of 20 are at least 2
    found = measure_detection(inside, [0, 1, 2, 2, 30], draws=50)
    assert found.fpr95 == 3 / 5  # a tie with the threshold passes
    assert found.auroc == pytest.approx((20 + 19.5 + 18.5 + 18.5 + 0) / 100)
    apart = measure_detection([2.0, 3.0], [0.0, 1.0], draws=50)
    assert (apart.auroc, apart.fpr95, apart.ci["auroc"], apart.ci["fpr95"]) == (1, 0, (1, 1), (0, 0))
    alike = measure_detection([1.0] * 4, [1.0] * 3, draws=50)
    assert (alike.auroc, alike.fpr95) == (0.5, 1)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), []
    for seed in range(150):
        found = measure_detection(rng.normal(1, 1, 120), rng.normal(0, 1, 80), draws=150, seed=seed)
        low, high = found.ci["auroc"]
        assert low <= found.auroc <= high
        held.append(low <= 0.7602 <= high)  # Φ(1/√2)
    assert 0.88 <= np.mean(held) <= 0.99
    again = measure_detection([1.0, 2.0, 3.0], [0.0, 2.5], draws=20, seed=4)
    assert again == measure_detection([1.0, 2.0, 3.0], [0.0, 2.5], draws=20, seed=4)


@settings(derandomize=True)
@given(st.integers(1, 20), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_scores_are_those_of_the_papers(n: int, classes: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, (n, classes))
    np.testing.assert_allclose(negative_energy(logits), logsumexp(logits, axis=1))
    p = Prediction(logits, np.zeros(n, dtype=int)).probabilities
    np.testing.assert_allclose(np.exp(maximum_probability(logits)), p.max(axis=1))
    np.testing.assert_allclose(negative_energy(logits + 3), negative_energy(logits) + 3)
    np.testing.assert_allclose(maximum_probability(logits + 3), maximum_probability(logits), atol=1e-12)


def test_a_saturated_probability_keeps_its_order() -> None:
    logits = np.array([[0.0, -50.0], [0.0, -60.0], [-np.inf, 0.0]])
    assert (Prediction(logits, np.zeros(3, dtype=int)).probabilities.max(axis=1) == 1).all()
    first, second, third = maximum_probability(logits)
    assert first < second < third == 0


def mixture() -> Predictions:
    """A test split that the model is sure of, a set that it is unsure of where novel, and one without novel rows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    sure = 4 * np.eye(3)[labels] + rng.normal(0, 1, (90, 3))
    test = Prediction(np.vstack([sure, np.zeros((5, 3))]), np.append(labels, [-1] * 5))
    mixed = Prediction(np.vstack([sure[:20], rng.normal(0, 1, (30, 3))]), np.append(labels[:20], [-1] * 30))
    return Predictions(test, {"mixed": mixed, "shifted": Prediction(sure[:40], labels[:40])})


def test_novel_rows_are_told_from_the_task_s() -> None:
    found = detect_ood(mixture(), draws=100)
    assert list(found) == ["mixed"]
    assert (found["mixed"]["n_in"], found["mixed"]["n_out"]) == (90, 30)  # the test split's own novel rows are left out
    for score in ("msp", "energy"):
        assert found["mixed"][score]["auroc"] > 0.9
        assert found["mixed"][score]["fpr95"] < 0.6
        low, high = found["mixed"][score]["ci"]["auroc"]
        assert 0 <= low < high <= 1
    every = detect_ood(mixture(), shifted=True, draws=100)
    assert {name: figures["n_out"] for name, figures in every.items()} == {"mixed": 50, "shifted": 40}
    assert every["shifted"]["msp"]["auroc"] == pytest.approx(0.5, abs=0.1)  # the very same rows


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], []), ([1.0], [np.nan])])
def test_what_cannot_be_compared_is_refused(inside: list[float], outside: list[float]) -> None:
    with pytest.raises(DataError, match=r"at least one example of each side, all with a score"):
        measure_detection(inside, outside)
