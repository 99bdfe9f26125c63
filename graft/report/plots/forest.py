"""Paired differences as a forest: who is ahead, by how much, and whether it could be nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.evaluate.registry import is_higher_better, label_of
from graft.report.estimates import Paired
from graft.report.plots.style import COLORS, INK, SOFT, in_style, new_figure, save_figure, short_label

READING = (
    "Small: each seed with its paired bootstrap interval over the test examples. Large: the mean over seeds and its "
    "95 % interval, hollow where it holds 0, which is a tie"
)
_COLOR = {"ahead": COLORS["graft"], "behind": COLORS["tuned"], "tie": SOFT, "unknown": SOFT}


def plot_forest(
    panels: Mapping[str, Mapping[str, Paired]], path: Path, *, title: str, rows: Sequence[str]
) -> list[Path]:
    """Draw a panel per comparison with a row per task or model.

    Large: the mean and its 95 % interval; small and pale above it: each seed with its paired interval over examples.
    Filled where the interval excludes 0, hollow where it is a tie.

    Args:
        panels: title of a panel -> name of a row -> the main graft's difference.
        path: of the file, without suffix.
        title: over the panels.
        rows: names of the rows, from the top.

    Returns:
        The files written.
    """
    longest = max(len(short_label(row)) for row in rows)
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // columns)
    width = max(0.085 * longest + 3.3 * columns, 0.3 + 0.085 * len(title))  # inches; a letter takes about .085
    with in_style():
        figure = new_figure(width, 0.5 + lines * (1.1 + 0.5 * len(rows)))
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
        for axes, (name, panel) in zip(grid, panels.items(), strict=False):
            axes.set_title(short_label(name))
            axes.axvline(0, color=INK, linewidth=0.8)
            for row, paired in panel.items():
                _draw_row(axes, rows.index(row), paired)
            _name_sides(axes, next(iter(panel.values())).metric)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        grid[0].set_yticks(range(len(rows)), map(short_label, rows))
        grid[0].set_ylim(len(rows) - 0.45, -0.65)
        return save_figure(figure, path)


def _draw_row(axes: Any, y: int, paired: Paired) -> None:
    color, estimate = _COLOR[paired.verdict], paired.estimate
    if len(paired.parts) > 1:
        for i, part in enumerate(paired.parts):
            height = y - 0.2 - 0.24 * i / len(paired.parts)
            axes.plot([part.low, part.high], [height, height], color=color, alpha=0.4, linewidth=1)
            axes.plot(part.estimate, height, ".", color=color, alpha=0.6, markersize=4)
    if estimate.low is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
    filled = paired.verdict in ("ahead", "behind")
    face = {} if filled else {"markerfacecolor": axes.get_facecolor()}
    axes.plot(estimate.mean, y, "D" if not paired.parts else "o", color=color, markersize=6.5, **face)


def _name_sides(axes: Any, metric: str) -> None:
    """Label the axis with which side of 0 is better."""
    axes.margins(x=0.08)
    left, right = ("worse", "better") if is_higher_better(metric) else ("better", "worse")
    axes.set_xlabel(f"← {left}    {label_of(metric)}    {right} →", fontsize=9)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
