"""Gain against loss: a panel per domain, a line per method, and the Pareto front, which no point dominates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.report.plots.style import COLORS, INK, PAPER, SOFT, in_style, new_figure, save_figure, short_label

# Okabe and Ito's, without yellow, which is too pale for lines
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#A6761D", "#1b2430")
_MARKERS = "os^Dv<>P"
_WORDS = {"points": "points of accuracy", "nats": "nats per token"}


@dataclass(frozen=True)
class ParetoPoint:
    """A method at one setting.

    Attributes:
        gain, general: change on the domain and on the general tasks, means over seeds.
        dominated: whether another point is, on validation, at least as good on both and better on one.
    """

    gain: float
    general: float
    dominated: bool


@dataclass(frozen=True)
class ParetoPlot:
    """A panel.

    Attributes:
        title: over it.
        gain_unit, general_unit: "points" or "nats".
        curves: method -> its settings in order.
    """

    title: str
    gain_unit: str
    general_unit: str
    curves: Mapping[str, Sequence[ParetoPoint]]


def plot_pareto(panels: Sequence[ParetoPlot], path: Path, *, title: str) -> list[Path]:
    """Draw the panels of one experiment side by side: means, since intervals of few seeds would hide the points.

    Args:
        panels: with the same methods, one or more.
        path: of the file, without suffix.
        title: over all.

    Returns:
        The files written.
    """
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    names = list(panels[0].curves)
    with in_style():
        figure = new_figure(5.0 * columns, 4.2 * rows + 0.22 * math.ceil(len(names) / (2 * columns)) + 0.8)
        figure.suptitle(f"{title}: gained on a new domain, lost elsewhere\nmeans over seeds", fontsize=11)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 * columns, fontsize=9)
        return save_figure(figure, path)


def _draw_panel(axes: Any, panel: ParetoPlot) -> None:
    axes.set_title(panel.title)
    axes.axhline(0, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    for number, (method, points) in enumerate(panel.curves.items()):
        _draw_method(axes, method, points, number)
    points = [point for points in panel.curves.values() for point in points]
    front = sorted((point.gain, point.general) for point in points if not point.dominated)
    if front:
        x, y = zip((0.0, 0.0), *front, strict=True)  # doing nothing is on the front
        axes.plot(x, y, color=INK, alpha=0.18, linewidth=5, zorder=0, label="Pareto front")
    axes.plot(0, 0, marker="X", color=COLORS["base"], markersize=9, linewidth=0, label="before")
    axes.set_xlabel(f"gain on the domain, {_WORDS[panel.gain_unit]} (right is better)")
    axes.set_ylabel(f"general change, {_WORDS[panel.general_unit]} (up is better)")


def _draw_method(axes: Any, method: str, points: Sequence[ParetoPoint], number: int) -> None:
    """Join the settings by a line; a dominated one is hollow."""
    color, marker = _COLORS[number % len(_COLORS)], _MARKERS[(number // len(_COLORS) + number) % len(_MARKERS)]
    x, y = [point.gain for point in points], [point.general for point in points]
    axes.plot(x, y, color=color, marker=marker, markersize=6, linewidth=1.2, alpha=0.9, label=short_label(method))
    hollow = [point for point in points if point.dominated]
    axes.plot(
        [point.gain for point in hollow],
        [point.general for point in hollow],
        color=color,
        marker=marker,
        markersize=6,
        linewidth=0,
        markerfacecolor=PAPER,
    )
