from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.evaluate import outcomes as columns
from graft.evaluate.bootstrap import Metric, basic_interval, bootstrap_metrics, paired_difference
from graft.evaluate.calibration import (
    brier_score,
    calibration_floor,
    expected_calibration_error,
    negative_log_likelihood,
)
from graft.evaluate.correctness import accuracy, macro_f1
from graft.evaluate.outcomes import Booleans, Outcomes
from graft.evaluate.registry import METRICS as REGISTERED

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": macro_f1,
    "nll": negative_log_likelihood,
    "brier": brier_score,
    "ece": expected_calibration_error,
    "ece_mass": partial(expected_calibration_error, scheme="mass"),
}


def random_outcomes(n: int, classes: int, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    return Outcomes.from_probabilities(rng.dirichlet(np.ones(classes), n), rng.integers(0, classes, n))


def model(correct: Booleans) -> Outcomes:
    """A two-class model of confidence 0.8 on examples of class 0, right where `correct` (n,) says so."""
    p = np.where(correct[:, None], [0.8, 0.2], [0.2, 0.8])
    return Outcomes.from_probabilities(p, np.zeros(len(correct), dtype=int))


def test_basic_interval_by_hand() -> None:
    draws = np.arange(101) / 100  # its quantiles are the levels themselves
    assert basic_interval(draws, 0.4, level=0.8) == pytest.approx((2 * 0.4 - 0.9, 2 * 0.4 - 0.1))
    assert basic_interval(draws, 0.4, level=0.8, limits=(0.0, 1.0)) == pytest.approx((0.0, 0.7))


@settings(derandomize=True)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.floats(-1e3, 1e3), st.floats(-10, 10))
def test_interval_is_ordered_nested_and_moves_with_the_statistic(
    draws: list[float], estimate: float, shift: float
) -> None:
    low, high = basic_interval(draws, estimate)
    inner_low, inner_high = basic_interval(draws, estimate, 0.5)
    assert low <= inner_low + 1e-9 <= inner_high + 2e-9 <= high + 3e-9
    moved = basic_interval(np.array(draws) + shift, estimate + shift)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


def test_a_bias_that_resampling_repeats_is_taken_off() -> None:
    low, high = basic_interval(np.random.default_rng(0).normal(1.5, 0.1, 2000), 1.0)  # truth 0.5, bias 0.5
    assert low < 0.5 < high < 1.0


@pytest.mark.parametrize(("level", "tolerance"), [(0.95, 0.04), (0.5, 0.09)])
def test_coverage_is_near_the_nominal_level(level: float, tolerance: float) -> None:
    rng, held = np.random.default_rng(0), []
    for seed in range(300):
        outcomes = model(rng.random(300) < 0.7)
        low, high = bootstrap_metrics(outcomes, {"a": accuracy}, draws=200, level=level, seed=seed)["a"]
        held.append(low <= 0.7 <= high)
    assert np.mean(held) == pytest.approx(level, abs=tolerance)


def test_same_seed_same_intervals_whichever_metrics_are_asked_for() -> None:
    outcomes = random_outcomes(200, 3)
    together = bootstrap_metrics(outcomes, METRICS, draws=50)
    assert list(together) == list(METRICS)
    for name, metric in METRICS.items():
        assert bootstrap_metrics(outcomes, {name: metric}, draws=50) == {name: together[name]}
    assert bootstrap_metrics(outcomes, METRICS, draws=50, seed=1) != together


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (7, 3), (200, 5), (150, 40)])
def test_many_resamples_at_once_give_each_its_own_numbers_to_the_last_bit(n: int, classes: int) -> None:
    outcomes, rng = random_outcomes(n, classes), np.random.default_rng(1)
    for of in (outcomes, replace(outcomes, n_tokens=rng.integers(0, 9, n))):
        rows = np.stack([of.resample(rng) for _ in range(30)])
        for entry in REGISTERED.values():
            metric: Metric = entry.load()
            alone = [metric(of.take(row)) for row in rows]
            assert all(type(value) is float for value in alone)
            np.testing.assert_array_equal(metric(of.take(rows)), alone)


def test_the_size_of_a_stack_changes_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = random_outcomes(60, 3)
    whole = bootstrap_metrics(outcomes, METRICS, draws=50), calibration_floor(outcomes, draws=50)
    for rows in (1, 60 * 7):
        monkeypatch.setattr(columns, "_AT_ONCE", rows)
        assert (bootstrap_metrics(outcomes, METRICS, draws=50), calibration_floor(outcomes, draws=50)) == whole


def test_limits_clip_by_name_only() -> None:
    honest = model(np.arange(500) < 400)  # right in 0.8, and 0.8 confident
    both: dict[str, Metric] = {"free": expected_calibration_error, "clipped": expected_calibration_error}
    intervals = bootstrap_metrics(honest, both, limits={"clipped": (0.0, 1.0)})
    assert intervals["free"][0] < 0.0
    assert intervals["clipped"] == (0.0, max(0.0, intervals["free"][1]))


def test_a_thousand_draws_of_every_metric_give_ordered_intervals() -> None:
    cases = random_outcomes(1821, 2), random_outcomes(2000, 150)
    for outcomes in cases:
        assert all(low <= high for low, high in bootstrap_metrics(outcomes, METRICS).values())


def test_pairing_narrows_the_interval_of_models_that_agree_and_of_those_alone() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(800) < 0.8
    first = model(correct)
    kin, stranger = model(correct ^ (rng.random(800) < 0.05)), model(rng.random(800) < 0.8)

    def width_ratio(second: Outcomes) -> float:
        paired = paired_difference(first, second, accuracy)
        separate = [bootstrap_metrics(m, {"a": accuracy}, seed=s)["a"] for s, m in enumerate((first, second))]
        return (paired.high - paired.low) / math.hypot(*(high - low for low, high in separate))

    assert width_ratio(stranger) == pytest.approx(1.0, abs=0.15)
    assert width_ratio(kin) < 0.6


def test_difference_is_antisymmetric_and_zero_only_for_the_model_itself() -> None:
    a = random_outcomes(300, 2)
    better = Outcomes.from_probabilities(np.eye(2)[a.label], a.label)
    forth, back = (paired_difference(*pair, accuracy, draws=100) for pair in ((better, a), (a, better)))
    assert forth.estimate == accuracy(better) - accuracy(a)
    assert 0.0 < forth.low < forth.estimate < forth.high
    assert (back.low, back.estimate, back.high) == pytest.approx((-forth.high, -forth.estimate, -forth.low))
    same = paired_difference(a, random_outcomes(300, 2), accuracy, draws=100)
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)


def test_bad_input_is_refused() -> None:
    a = random_outcomes(20, 2)
    with pytest.raises(ValueError, match="at least one draw, not 0"):
        bootstrap_metrics(a, METRICS, draws=0)
    for rows in (np.arange(19), np.argsort(-a.label)):
        with pytest.raises(ValueError, match="same examples in the same order"):
            paired_difference(a, a.take(rows), accuracy)
    with pytest.raises(ValueError, match="must lie between 0 and 1, not at 95"):
        basic_interval([0.1], 0.1, level=95)
    for draws, estimate in (([], 0.1), ([np.nan], 0.1), ([0.1], np.inf)):
        with pytest.raises(ValueError, match="finite estimate and at least one draw"):
            basic_interval(draws, estimate)
