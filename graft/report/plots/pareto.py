"""Gain against loss: a panel per domain, a line per method, and the Pareto front of what nothing dominates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graft.evaluate.rounding import dominates
from graft.report.plots.plot import Plot
from graft.report.plots.style import COLORS, INK, PAPER, SOFT, in_style, new_figure, save_figure, short_label
from graft.report.run_folder import FinishedRun
from graft.results.layout import RESULTS
from graft.specs.forgetting import MEAN, ForgettingSpec
from graft.specs.reader import read_config

# Okabe and Ito's, without yellow, which is too pale for lines
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#A6761D", "#1b2430")
_MARKERS = "os^Dv<>P"
_WORDS = {"points": "points of accuracy", "nats": "nats per token"}


@dataclass(frozen=True)
class ParetoPoint:
    """A method at one setting.

    Attributes:
        gain, general: change on the domain and on the general tasks, means over seeds.
        dominated: whether another point, or doing nothing, is on validation at least as good on both and better on one.
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
        before: doing nothing, which a point may dominate too.
    """

    title: str
    gain_unit: str
    general_unit: str
    curves: Mapping[str, Sequence[ParetoPoint]]
    before: ParetoPoint = ParetoPoint(0.0, 0.0, False)


def build_plot(run: FinishedRun) -> Plot:
    """Draw every method of a run about forgetting: the mean over domains first, then each domain."""
    panels = list_panels(run)
    return Plot(
        partial(plot_pareto, panels, title=run.name),
        alt=f"Gain on a new domain against the change on general tasks, by {', '.join(panels[0].curves)}.",
        caption="Right: gained on the domain; up: kept of the general tasks. Means over seeds, on test; hollow: "
        "another setting, or doing nothing, is better on validation. The band joins all that nothing beats there.",
    )


def list_panels(run: FinishedRun) -> list[ParetoPlot]:
    """Return the panels that are drawn: the mean over domains where there is one, then each domain."""
    results = run.results
    recipe = read_config(ForgettingSpec, dict(results.recipe), str(run.path / RESULTS))
    units: Mapping[str, str] = results.more["units"]["domains"]
    first = next(iter(units.values()))  # the mean is over the domains that are measured in the first one's unit
    titles = {MEAN: f"mean over {list(units.values()).count(first)} domains", **{name: name for name in units}}
    panels = []
    for domain in (name for name in titles if name in results.summary):
        rows = results.summary[domain]
        curves: dict[str, list[ParetoPoint]] = {}
        for point in recipe.points():
            curves.setdefault(point.method, []).append(_read_point(rows[point.name]))
        before = ParetoPoint(0.0, 0.0, any(map(_beats_nothing, rows.values())))
        of_general = results.more["units"]["general"]
        panels.append(ParetoPlot(titles[domain], units.get(domain, first), of_general, curves, before))
    return panels


def _read_point(row: Mapping[str, Any]) -> ParetoPoint:
    gain, general = row["figures"]["gain"], row["figures"]["general"]
    return ParetoPoint(gain["mean"], general["mean"], row["beaten_by"] is not None)


def _beats_nothing(row: Mapping[str, Any]) -> bool:
    """Return whether a point is on validation at least as good as doing nothing in both, and better in one."""
    changes = [row["figures"][f"validation_{key}"]["mean"] for key in ("gain", "general")]
    return dominates(changes, (0.0, 0.0))


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
    points = [panel.before, *(point for points in panel.curves.values() for point in points)]
    front = sorted((point.gain, point.general) for point in points if not point.dominated)
    axes.plot(*zip(*front, strict=True), color=INK, alpha=0.18, linewidth=5, zorder=0, label="Pareto front")
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
