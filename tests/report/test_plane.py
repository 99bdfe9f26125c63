"""The plane of gain and loss: every method is named once, and points that were beaten are hollow."""

from __future__ import annotations

from pathlib import Path

from graft.report.plane import Plane, Spot, plot_planes

CURVES = {
    "full": [Spot(5, -1, True), Spot(9, -8, False)],
    "patch $alone$": [Spot(4, -0.5, True)],
}


def test_a_panel_per_domain_and_one_legend(tmp_path: Path) -> None:
    planes = [Plane(name, "points", "nats", CURVES) for name in ("mean over 3 domains", "science", "law", "letters")]
    files = plot_planes(planes, tmp_path / "plane", title="tiny")
    assert [file.name for file in files] == ["plane.png", "plane.svg"]
    text = files[1].read_text(encoding="utf-8")
    for word in ("science", "letters", "nats per token", "patch $alone$", "before", "front"):
        assert f"<!-- {word}" in text or word in text
    again = plot_planes(planes, tmp_path / "again", title="tiny")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_a_plane_without_a_front_is_drawn(tmp_path: Path) -> None:
    spots = {"full": [Spot(5, -1, False)]}
    files = plot_planes([Plane("science", "nats", "nats", spots)], tmp_path / "plane", title="tiny")
    assert all(file.stat().st_size > 1000 for file in files)
