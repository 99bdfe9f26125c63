from __future__ import annotations

import pytest
from scipy import stats

from graft.evaluate.t_interval import mean_interval


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (11, 2.228), (40, 2.023)])
def test_the_interval_is_student_s(n: int, t: float) -> None:
    values = [0.1 * i * i for i in range(n)]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, n - 1, loc=found["mean"], scale=stats.sem(values))
    assert found["mean"] == pytest.approx(sum(values) / n)
    assert found["half"] == pytest.approx((high - low) / 2)
    assert found["half"] == pytest.approx(t * stats.sem(values), rel=1e-3)  # of the printed table


def test_one_seed_has_no_interval_and_equal_seeds_one_of_zero() -> None:
    assert mean_interval([0.5]) == {"mean": 0.5, "half": None, "values": [0.5]}
    assert mean_interval([0.5, 0.5])["half"] == 0
