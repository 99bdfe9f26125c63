"""Sufficiency and necessity of each method's region."""

from __future__ import annotations

from graft.report.estimates import estimate_of
from graft.report.page.cells import cell
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table
from graft.report.page.run_page import RunPage
from graft.report.plots.sufficiency_necessity import list_regions
from graft.results.models import Role

_SIDES: tuple[Role, Role] = ("graft", "without")


def build_section(page: RunPage) -> Html | None:
    """Show sufficiency and necessity of each method's region."""
    run = page.run
    regions = list_regions(run)
    if not regions:
        return None
    rows = [
        [
            method,
            cell(brings),
            cell(takes),
            *(cell(estimate_of(run, run.find_model(role, method), "accuracy")) for role in _SIDES),
        ]
        for method, (brings, takes) in regions.items()
    ]
    head = ["region by", "sufficiency", "necessity", "accuracy, base with it", "accuracy, tuned without it"]
    table = Table(head, rows, frozenset({0})).render(f"{run.name}: sufficiency and necessity")
    figures, text = page.draw_plots("sufficiency_necessity"), note(f"Test split; {interval_words(run)}.")
    return section(None, "Enough, and needed?", *figures, table, text)
