from __future__ import annotations

import math

from graft.recipes.run import find_missed
from graft.specs.recipe import Expectation


def missed(mean: float, value: float, tolerance: float) -> tuple[str, ...]:
    return find_missed({"graft.ece": Expectation(value, tolerance)}, {"graft": {"ece": {"mean": mean}}})


def test_a_figure_that_is_no_number_is_not_as_expected() -> None:
    assert missed(math.nan, 0.1, 0.5) == ("graft.ece is nan, expected 0.1 ± 0.5",)


def test_the_tolerance_itself_is_within_it() -> None:
    assert abs(0.87 - 0.85) > 0.02  # by what floats round
    assert not missed(0.87, 0.85, 0.02)
    assert missed(0.8701, 0.85, 0.02)
