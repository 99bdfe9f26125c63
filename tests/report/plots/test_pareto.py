"""The Pareto plot of gain and loss: every method is named once, and dominated points are hollow."""

from __future__ import annotations

from pathlib import Path

from graft.report.plots.pareto import ParetoPlot, ParetoPoint, plot_pareto
from tests.report.conftest import Drawn

CURVES = {
    "full": [ParetoPoint(5, -1, False), ParetoPoint(9, -8, True)],
    "patch $alone$": [ParetoPoint(4, -0.5, False)],
}


def test_a_panel_per_domain_and_one_legend(tmp_path: Path, drawn: Drawn) -> None:
    panels = [
        ParetoPlot(name, "points", "nats", CURVES) for name in ("mean over 3 domains", "science", "law", "letters")
    ]
    files = plot_pareto(panels, tmp_path / "pareto", title="tiny")
    assert [file.name for file in files] == ["pareto.png"]
    text = drawn.words()
    for word in ("science", "letters", "nats per token", "patch $alone$", "before", "Pareto front"):
        assert word in text
    again = plot_pareto(panels, tmp_path / "again", title="tiny")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_a_plot_without_a_front_is_drawn(tmp_path: Path) -> None:
    points = {"full": [ParetoPoint(5, -1, True)]}
    files = plot_pareto([ParetoPlot("science", "nats", "nats", points)], tmp_path / "pareto", title="tiny")
    assert all(file.stat().st_size > 1000 for file in files)
