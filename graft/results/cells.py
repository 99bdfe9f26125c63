"""Numbers as texts, for every table: of recipes, reports, model cards and the command line.

A number is a value and what is known of its error, either a half-width ("± .012", over seeds) or two ends
("[.780, .812]", over examples); what is missing is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

MISSING = "–"
Format = Callable[[float], str]


def decimal(number: float) -> str:
    """Return three decimals, without the 0 before the point, and without the sign of what rounds to 0."""
    text = f"{number:.3f}".removeprefix("-") if abs(number) < 0.0005 else f"{number:.3f}"
    return text.replace("0.", ".", 1) if abs(number) < 1 else text  # 10.5 holds a "0." too


def signed_decimal(number: float) -> str:
    """Return `decimal` with a plus where there is no minus."""
    text = decimal(number)
    return text if text.startswith("-") else f"+{text}"


def fixed(decimals: int, sign: str = "") -> Format:
    """Return a format of so many decimals; with `sign` "+" a plus is shown too."""
    return lambda number: f"{number:{sign}.{decimals}f}"


def percent(share: float) -> str:
    """Return a share in per cent, three digits: 0.01 %."""
    return f"{100 * share:.3g} %"


def times(ratio: float) -> str:
    """Return how many times as much something is: 1.23×, 346×."""
    return f"{ratio:,.2f}×" if ratio < 10 else f"{ratio:,.0f}×"


def count(number: float) -> str:
    """Return a large count as a person says it: 22.7M, 8.03B."""
    return _in_units(number, ((1e12, "T"), (1e9, "B"), (1e6, "M"))) or f"{number:,.0f}"


def file_size(n_bytes: float) -> str:
    """Return a number of bytes as a person says it: 940 B, 83.5 kB, 1.39 MB, in powers of 1,000."""
    return _in_units(n_bytes, ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"))) or f"{n_bytes:.0f} B"


def _in_units(number: float, units: Sequence[tuple[float, str]]) -> str:
    """Return three digits and the largest unit that they reach; "" for a number below all units."""
    if number < units[-1][0]:
        return ""
    rounded = float(f"{number:.3g}")  # 999,900,000 is 1B, not 1e+03M
    size, unit = next((size, unit) for size, unit in units if rounded >= size)
    return f"{rounded / size:.3g}{unit}"


def plus_minus(half: float | None, show: Format = decimal) -> str:
    """Return a half-width: "± .012", "" where there is none."""
    return "" if half is None else f"± {show(half)}"


def brackets(ends: Sequence[float] | None, show: Format = decimal, between: str = ", ") -> str:
    """Return the ends of an interval: "[.780, .812]", "" where there are none."""
    return f"[{between.join(map(show, ends))}]" if ends else ""


def cell(
    value: float | None,
    *,
    half: float | None = None,
    ends: Sequence[float] | None = None,
    show: Format = decimal,
    show_error: Format | None = None,
) -> str:
    """Return a number with what is known of its error.

    Args:
        value: None where it is missing.
        half: half-width of its interval.
        ends: of its interval, where there is no half-width.
        show: format of the value.
        show_error: format of half-width or ends, where it is another.
    """
    if value is None:
        return MISSING
    show_error = show_error or show
    return f"{show(value)} {plus_minus(half, show_error) or brackets(ends, show_error)}".rstrip()


def mean_cell(estimate: Mapping[str, Any] | None) -> str:
    """Return a mean over seeds with its half-width, a dash where there is none."""
    return cell(estimate["mean"], half=estimate["half"]) if estimate else MISSING
