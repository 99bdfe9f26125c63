"""The Pareto plot of gain and loss: every method is named once, and dominated points are hollow."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.recipes.forgetting.summary import find_dominated
from graft.report.plots.pareto import ParetoPlot, ParetoPoint, build_plot, plot_pareto
from graft.report.run_folder import FinishedRun
from graft.results.run import Results
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


def finished(path: Path, places: dict[str, tuple[float, float]]) -> FinishedRun:
    """One domain; gain and general change of every method, the same on validation as on test."""
    keys = ("gain", "general", "validation_gain", "validation_general")
    beaten = find_dominated(places)
    rows = {
        name: {
            "figures": {key: {"mean": value} for key, value in zip(keys, 2 * place, strict=True)},
            "beaten_by": beaten[name],
        }
        for name, place in places.items()
    }
    methods = {name: {} for name in places}
    recipe = {"name": "tiny", "base": "base", "general": ["old.yaml"], "domains": ["new.yaml"], "methods": methods}
    units = {"general": "points", "counted": ["old"], "domains": {"new": "points"}}
    return FinishedRun("tiny", path, Results("forgetting", recipe, {"new": rows}, (), more={"units": units}))


@pytest.mark.parametrize(
    ("places", "front"),
    [
        ({"full": (9.0, -4.0), "low": (3.0, -1.0)}, [(0, 0), (3, -1), (9, -4)]),
        ({"full": (9.0, -4.0), "replay": (8.0, 2.0)}, [(8, 2), (9, -4)]),  # replay beats doing nothing
        ({"full": (9.0, -4.0), "odd": (-2.0, 1.0)}, [(-2, 1), (0, 0), (9, -4)]),  # from left to right
    ],
)
def test_the_band_is_what_nothing_beats(
    places: dict[str, tuple[float, float]], front: list[tuple[float, float]], tmp_path: Path, drawn: Drawn
) -> None:
    build_plot(finished(tmp_path, places)).draw(tmp_path / "pareto")
    (band,) = (line for line in drawn[-1].axes[0].lines if line.get_label() == "Pareto front")
    assert [tuple(point) for point in band.get_xydata()] == front
