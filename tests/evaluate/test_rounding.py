"""What lies apart by no more than floats round is equal."""

from __future__ import annotations

from graft.evaluate.rounding import exceeds, reaches


def test_a_difference_of_rounding_is_none() -> None:
    nine_tenths = (0.59 - 0.5) / (0.6 - 0.5)
    assert nine_tenths != 0.9
    assert reaches(nine_tenths, 0.9)
    assert reaches(0.9, nine_tenths)
    assert not exceeds(nine_tenths, 0.9)
    assert not exceeds(0.9, nine_tenths)


def test_a_difference_of_one_in_a_million_is_one() -> None:
    assert exceeds(0.900001, 0.9)
    assert reaches(0.900001, 0.9)
    assert not exceeds(0.9, 0.900001)
    assert not reaches(0.9, 0.900001)
