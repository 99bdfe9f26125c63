"""Layers and modules of the entries of the first seed's patch."""

from __future__ import annotations

from graft.report.page.document import section
from graft.report.page.markup import Html
from graft.report.page.run_page import RunPage


def build_section(page: RunPage) -> Html | None:
    """Draw where the entries of the first seed's patch lie."""
    figures = page.draw_plots("layers")
    return section(None, "Where does it live?", *figures) if figures else None
