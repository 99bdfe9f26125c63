"""Areas under curves over density."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.evaluate.areas import area_interval, area_over_density, weigh_densities

DENSITIES = st.lists(st.floats(1e-6, 1), min_size=2, max_size=8, unique_by=lambda x: round(np.log(x), 3)).map(sorted)


def test_the_example_of_the_docstring() -> None:
    assert weigh_densities([1e-4, 1e-3, 1e-2]) == pytest.approx([0.25, 0.5, 0.25])
    assert area_over_density({1e-2: 1.0, 1e-4: 0.2, 1e-3: 0.8}) == pytest.approx(0.7)
    assert area_over_density({1e-3: 0.8}) is None


@given(DENSITIES, st.floats(-2, 2), st.floats(-2, 2))
def test_a_constant_is_its_own_area_and_a_line_has_that_of_its_middle(
    densities: list[float], start: float, end: float
) -> None:
    assert area_over_density(dict.fromkeys(densities, start)) == pytest.approx(start, abs=1e-9)
    low, high = np.log(densities[0]), np.log(densities[-1])
    line = {x: start + (end - start) * (np.log(x) - low) / (high - low) for x in densities}
    assert area_over_density(line) == pytest.approx((start + end) / 2, abs=1e-9)


@pytest.mark.parametrize("densities", [[1e-3], [0.0, 1e-3], [1e-2, 1e-3], [1e-3, 1e-3]])
def test_what_is_no_axis_is_refused(densities: list[float]) -> None:
    with pytest.raises(ValueError, match="two densities at least"):
        weigh_densities(densities)


def test_the_interval_holds_the_area_and_narrows_with_examples() -> None:
    widths = []
    for n in (200, 3200):
        rng = np.random.default_rng(1)
        answers = [(rng.random(n) < p).astype(float) for p in (0.5, 0.6, 0.8, 0.9)]
        base, *grafts, tuned = answers
        found = area_interval([1e-4, 1e-2], grafts, base, tuned)
        assert found is not None
        means = [answer.mean() for answer in answers]
        area = ((means[1] + means[2]) / 2 - means[0]) / (means[3] - means[0])
        assert found[0] < area < found[1]
        widths.append(found[1] - found[0])
        assert area_interval([1e-4, 1e-2], grafts, tuned, base) is None  # tuning lost
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)
    none = np.ones(4)
    assert area_interval([1e-4, 1e-2], [none, none], none * 0, none) == (1, 1)


def test_the_same_examples_are_drawn_for_all_models() -> None:
    rng = np.random.default_rng(0)
    base = (rng.random(300) < 0.5).astype(float)
    tuned = np.maximum(base, rng.random(300) < 0.8)
    assert area_interval([1e-4, 1e-2], [tuned, tuned], base, tuned) == pytest.approx((1, 1))
