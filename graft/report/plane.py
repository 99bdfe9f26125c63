"""What was gained against what was lost: a panel per domain, a line per method, and the front that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.report.figure import COLOURS, INK, PAPER, SOFT, in_style, new_figure, save_figure, short_label

# Okabe and Ito's, without yellow, which is too pale for lines
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#A6761D", "#1b2430")
_MARKERS = "os^Dv<>P"
_WORDS = {"points": "points of accuracy", "nats": "nats per token"}


@dataclass(frozen=True)
class Spot:
    """A method at one setting.

    Attributes:
        gain, general: change on the domain and on the general tasks, means over seeds.
        on_front: whether no other point was chosen before it on validation.
    """

    gain: float
    general: float
    on_front: bool


@dataclass(frozen=True)
class Plane:
    """A panel.

    Attributes:
        title: over it.
        gain_unit, general_unit: "points" or "nats".
        curves: method -> its settings in order.
    """

    title: str
    gain_unit: str
    general_unit: str
    curves: Mapping[str, Sequence[Spot]]


def plot_planes(planes: Sequence[Plane], path: Path, *, title: str) -> list[Path]:
    """Draw the planes of one experiment side by side: means, since intervals of few seeds would hide the points.

    Args:
        planes: with the same methods, one or more.
        path: of the files, without suffix.
        title: over all.

    Returns:
        The PNG and SVG files.
    """
    columns = min(len(planes), 3)
    rows = math.ceil(len(planes) / columns)
    names = list(planes[0].curves)
    with in_style():
        figure = new_figure(5.0 * columns, 4.2 * rows + 0.22 * math.ceil(len(names) / (2 * columns)) + 0.8)
        figure.suptitle(f"{title}: gained on a new domain, lost elsewhere\nmeans over seeds", fontsize=11)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, plane in zip(panels, planes, strict=False):
            _draw_plane(axes, plane)
        for axes in panels[len(planes) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 * columns, fontsize=9)
        return save_figure(figure, path)


def _draw_plane(axes: Any, plane: Plane) -> None:
    axes.set_title(plane.title)
    axes.axhline(0, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    for number, (method, spots) in enumerate(plane.curves.items()):
        _draw_method(axes, method, spots, number)
    front = sorted((spot.gain, spot.general) for spots in plane.curves.values() for spot in spots if spot.on_front)
    if front:
        axes.plot(*zip((0.0, 0.0), *front, strict=True), color=INK, alpha=0.18, linewidth=5, zorder=0, label="front")
    axes.plot(0, 0, marker="X", color=COLOURS["base"], markersize=9, linewidth=0, label="before")
    axes.set_xlabel(f"gain on the domain, {_WORDS[plane.gain_unit]} (right is better)")
    axes.set_ylabel(f"general change, {_WORDS[plane.general_unit]} (up is better)")


def _draw_method(axes: Any, method: str, spots: Sequence[Spot], number: int) -> None:
    """Settings joined by a line; hollow where another point was better on validation."""
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[(number // len(_COLOURS) + number) % len(_MARKERS)]
    x, y = [spot.gain for spot in spots], [spot.general for spot in spots]
    axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.2, alpha=0.9, label=short_label(method))
    hollow = [spot for spot in spots if not spot.on_front]
    axes.plot(
        [spot.gain for spot in hollow],
        [spot.general for spot in hollow],
        color=colour,
        marker=marker,
        markersize=6,
        linewidth=0,
        markerfacecolor=PAPER,
    )
