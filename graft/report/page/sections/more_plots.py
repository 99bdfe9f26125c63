"""Plots that no other section shows."""

from __future__ import annotations

from graft.report.page.document import section
from graft.report.page.markup import Html
from graft.report.page.run_page import RunPage


def build_section(page: RunPage) -> Html | None:
    """Draw the plots that no other section shows."""
    figures = page.draw_plots("more_plots")
    return section(None, "More plots", *figures) if figures else None
