"""Reliability diagrams side by side: base, tuned, the graft, and the controls."""

from __future__ import annotations

from graft.report.page.document import section
from graft.report.page.markup import Html
from graft.report.page.run_page import RunPage


def build_section(page: RunPage) -> Html | None:
    """Draw reliability diagrams side by side: base, tuned, the graft, and the controls."""
    figures = page.draw_plots("reliability")
    return section(None, "Does it know what it knows?", *figures) if figures else None
