from __future__ import annotations

import pytest

from graft.results.cells import (
    brackets,
    cell,
    count,
    decimal,
    file_size,
    fixed,
    mean_cell,
    percent,
    plus_minus,
    signed_decimal,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.8, ".800"), (-0.25, "-.250"), (1.0, "1.000"), (10.5, "10.500"), (-0.0004, ".000"), (-0.0006, "-.001")],
)
def test_numbers_are_written_short(number: float, text: str) -> None:
    assert decimal(number) == text


def test_a_sign_is_shown_on_both_sides_of_zero() -> None:
    assert [signed_decimal(x) for x in (0.25, -0.25, 0.0)] == ["+.250", "-.250", "+.000"]
    assert [fixed(1, "+")(x) for x in (2.0, -2.0)] == ["+2.0", "-2.0"]


def test_a_cell_shows_what_is_known_of_the_error() -> None:
    assert cell(0.5) == ".500"
    assert cell(0.5, half=0.125) == ".500 ± .125"
    assert cell(0.5, ends=(0.4, 0.75)) == ".500 [.400, .750]"
    assert cell(0.5, half=0.1, ends=(0.4, 0.75)) == ".500 ± .100"
    assert cell(0.5, ends=(0.4, 0.75), show=fixed(3)) == "0.500 [0.400, 0.750]"
    assert cell(-2.0, half=1.0, show=fixed(1, "+"), show_error=fixed(1)) == "-2.0 ± 1.0"
    assert cell(None, half=1.0) == "–"


def test_means_come_as_the_summary_has_them() -> None:
    assert mean_cell({"mean": 0.5, "half": None}) == ".500"
    assert mean_cell({"mean": 0.5, "half": 0.25}) == ".500 ± .250"
    assert mean_cell(None) == "–"


def test_parts_of_a_cell_are_empty_where_nothing_is_known() -> None:
    assert (plus_minus(None), brackets(None), brackets(())) == ("", "", "")
    assert brackets((0.5, 0.75), fixed(2), ",") == "[0.50,0.75]"


def test_shares_and_counts_are_as_a_person_says_them() -> None:
    assert [percent(x) for x in (1e-4, 0.5)] == ["0.01 %", "50 %"]
    assert [count(x) for x in (999, 22.7e6, 8.03e9, 1e12)] == ["999", "22.7M", "8.03B", "1T"]
    assert [count(x) for x in (999_999, 999_499_999, 999_900_000)] == ["999,999", "999M", "1B"]
    assert [file_size(x) for x in (999, 83_481, 999_900, 2.5e9)] == ["999 B", "83.5 kB", "1 MB", "2.5 GB"]
