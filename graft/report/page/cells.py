"""Cells of tables: estimates with their intervals, paired differences with their verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from graft.report.estimates import Estimate, Paired, decimal
from graft.report.page.markup import Html, Part, element, join
from graft.report.run_folder import RunFolder
from graft.results.cells import MISSING


def signed(difference: float) -> str:
    """Write three decimals with a sign, unless that is 0."""
    return f"{'+' if difference >= 0.0005 else ''}{decimal(difference)}"


def cell(estimate: Estimate | None) -> Part:
    """Write an estimate with its interval."""
    if estimate is None:
        return MISSING
    return join([decimal(estimate.mean), *_interval(estimate)])


def paired_cell(paired: Paired | None) -> Part:
    """Write a paired difference with its interval and its verdict."""
    if paired is None:
        return MISSING
    word = (
        Html("") if paired.verdict == "unknown" else join([" ", element("span", paired.verdict, klass=paired.verdict)])
    )
    return join([signed(paired.estimate.mean), *_interval(paired.estimate), word])


def apart_cell(paired: Paired | None) -> Part:
    """Say in how many seeds the interval over examples excludes 0."""
    return f"{paired.apart} of {len(paired.parts)}" if paired and paired.parts else MISSING


def _interval(estimate: Estimate) -> list[Html | str]:
    return [" ", element("span", estimate.interval, klass="range")] if estimate.interval else []


def main_row(run: RunFolder, models: Sequence[str]) -> frozenset[int]:
    """Return the row that stands out: that of the main graft."""
    return frozenset({models.index(run.main)} if run.main in models else ())
