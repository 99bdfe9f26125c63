"""Flips counted by hand, and what independent answers give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.recipes.forgetting.flips import count_flips, expect_flips, flips_of

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1)


def test_rows_lost_and_won_are_counted_apart() -> None:
    before, after = [True, True, True, False, False], np.array([True, False, False, True, False])
    assert count_flips(before, after) == {"lost": 0.4, "won": 0.2}


@given(ANSWERS)
def test_the_accuracy_moves_by_won_less_lost_in_fact_and_by_chance(answers: list[tuple[bool, bool]]) -> None:
    before, after = map(np.array, zip(*answers, strict=True))
    for flips in (count_flips(before, after), expect_flips(before.mean(), after.mean())):
        assert flips["won"] - flips["lost"] == pytest.approx(after.mean() - before.mean())


def test_independent_answers_flip_as_expected() -> None:
    draw = np.random.default_rng(0)
    before, after = draw.random(100_000) < 0.7, draw.random(100_000) < 0.6
    assert count_flips(before, after) == pytest.approx(expect_flips(0.7, 0.6), abs=0.01)


def test_a_task_whose_flips_were_not_counted_has_none() -> None:
    assert flips_of("wiki", 0.5, {"accuracy": 0.5}) == {}
    found = flips_of("quiz", 0.5, {"accuracy": 0.75, "lost": 0.0, "won": 0.25})
    assert found == {
        "quiz lost": 0.0,
        "quiz won": 25.0,
        "quiz lost, independent": 12.5,
        "quiz won, independent": 37.5,
    }
