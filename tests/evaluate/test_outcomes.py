from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.evaluate.outcomes import SMALLEST_PROBABILITY, Outcomes

P = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.0, 0.0, 1.0]])
Y = np.array([0, 1, 0])


def test_columns_by_hand() -> None:
    outcomes = Outcomes.from_probabilities(P, Y)
    assert len(outcomes) == 3
    assert outcomes.n_classes == 3
    assert outcomes.predicted.tolist() == [0, 0, 2]  # the tie of the second row goes to the lower class
    assert outcomes.correct.tolist() == [True, False, False]
    assert outcomes.confidence.tolist() == [0.7, 0.4, 1.0]
    np.testing.assert_allclose(outcomes.log_likelihood, np.log([0.7, 0.4, SMALLEST_PROBABILITY]))
    np.testing.assert_allclose(outcomes.squared_error, [0.14, 0.56, 2.0])


@settings(derandomize=True)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_take_commutes_with_the_reduction(rows: list[int]) -> None:
    chosen = np.array(rows, dtype=np.int64)
    taken = Outcomes.from_probabilities(P, Y).take(chosen)
    direct = Outcomes.from_probabilities(P[chosen], Y[chosen])
    assert taken.n_classes == direct.n_classes
    for column in ("label", "predicted", "confidence", "log_likelihood", "squared_error", "correct"):
        np.testing.assert_array_equal(getattr(taken, column), getattr(direct, column))


@settings(derandomize=True)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_columns_keep_their_ranges_for_any_softmax_of_fp32(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.uniform(-60.0, 60.0, (n, classes))).astype(np.float32)
    p = scores / scores.sum(axis=1, keepdims=True)
    outcomes = Outcomes.from_probabilities(p, rng.integers(0, classes, n))
    assert ((outcomes.confidence >= (1 - 1e-6) / classes) & (outcomes.confidence <= 1.0)).all()
    assert ((outcomes.squared_error >= 0.0) & (outcomes.squared_error <= 2.0 + 1e-5)).all()
    assert ((outcomes.log_likelihood >= np.log(SMALLEST_PROBABILITY)) & (outcomes.log_likelihood <= 0)).all()


def test_the_result_does_not_follow_the_callers_arrays() -> None:
    probabilities, labels = P.copy(), Y.copy()
    outcomes = Outcomes.from_probabilities(probabilities, labels)
    probabilities[:] = 0.0
    labels[:] = 2
    assert outcomes.label.tolist() == Y.tolist()
    assert outcomes.confidence.tolist() == [0.7, 0.4, 1.0]


def test_a_row_sum_within_the_tolerance_is_accepted_and_confidence_kept_below_1() -> None:
    outcomes = Outcomes.from_probabilities([[1.00005, 0.0]], [0])  # control of the refusal below
    assert outcomes.confidence.tolist() == [1.0]


@pytest.mark.parametrize(
    ("probabilities", "labels", "sentence"),
    [
        (P, [0, -1, 0], "Label -1 of example 1 is outside 0..2."),
        (P, [0, 1, 3], "Label 3 of example 2 is outside 0..2."),
        (P, [0.0, 1.0, 0.0], "Labels must be integers, not float64."),
        (P, [0, 1], r"labels \(n,\), not \(3, 3\) and \(2,\)."),
        ([0.5, 0.5], [0, 1], r"shape \(n, classes\)"),
        (np.empty((0, 3)), [], "There is nothing to evaluate"),
        (np.empty((2, 0)), [0, 0], "There is nothing to evaluate"),
        ([[0.5, 0.5], [np.nan, 1.0]], [0, 0], "Probabilities of example 1 are not finite."),
        ([[np.inf, 0.0]], [0], "Probabilities of example 0 are not finite."),
        ([[1.5, -0.5]], [0], "A probability of example 0 is negative."),
        ([[0.5, 0.5], [0.5, 0.5002]], [0, 0], "Probabilities of example 1 sum to 1.0002, not to 1."),
    ],
)
def test_bad_input_is_refused(probabilities: npt.ArrayLike, labels: npt.ArrayLike, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Outcomes.from_probabilities(probabilities, labels)


def test_examples_are_resampled_one_by_one_and_groups_whole() -> None:
    single = Outcomes.from_probabilities(np.full((50, 2), 0.5), np.zeros(50, dtype=np.int64))
    expected = np.random.default_rng(3).integers(0, 50, size=50)
    np.testing.assert_array_equal(single.resample(np.random.default_rng(3)), expected)
    group = np.repeat([2, 5, 6, 9], [1, 4, 2, 3])
    grouped = dataclasses.replace(single.take(np.arange(10)), group=group)
    members = {int(name): np.flatnonzero(group == name).tolist() for name in np.unique(group)}
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(50):
        rows = grouped.resample(rng)
        sizes.add(len(rows))
        taken, drawn = rows.tolist(), 0
        while taken:  # one whole group after another
            whole = members[int(group[taken[0]])]
            assert taken[: len(whole)] == whole
            taken, drawn = taken[len(whole) :], drawn + 1
        assert drawn == 4
    assert len(sizes) > 3
    np.testing.assert_array_equal(grouped.take(np.array([9, 0])).group, [9, 2])
