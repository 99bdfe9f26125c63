"""Gain and calibration against density, one line a method, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from graft.evaluate.registry import label_of
from graft.localize.registry import keeps_to_budget
from graft.report.estimates import Estimate, curve_of, estimate_of, gain_of
from graft.report.plots.plot import Plot
from graft.report.plots.style import (
    COLORS,
    INK,
    MARKERS,
    SOFT,
    colors_of,
    in_style,
    new_figure,
    save_figure,
    short_label,
)
from graft.report.run_folder import RunFolder

Line = Mapping[float, Mapping[str, Estimate]]  # density -> metric -> over seeds
Curves = Mapping[str, Line]  # method -> its line


def build_plot(run: RunFolder) -> Plot | None:
    """Draw gain and ECE of every method against density; None where no curve was measured."""
    curves = list_curves(run)
    if not curves:
        return None
    n = _count_weights(run, curves)
    shares = {method: _by_share(line, n) for method, line in curves.items()}
    title, levels = f"{run.name}: how much is enough?", _find_levels(run)
    return Plot(
        partial(plot_density_curves, shares, title=title, levels=levels, at=run.k / n),
        alt="Recovered gain and ECE on test against density; the numbers are in the table below.",
        caption="Lines: mean over seeds; small dots: seeds. Dashed: base and tuned model. Dotted: the patch of this "
        "run. Test split, logarithmic axis.",
    )


def list_curves(run: RunFolder) -> Curves:
    """Return the curves that were measured, the main method's first."""
    curves = {method: points for method, points in curve_of(run).items() if points}
    return {method: curves[method] for method in sorted(curves, key=lambda method: method != run.method)}


def _count_weights(run: RunFolder, curves: Curves) -> float:
    """Return how many weights the base has: as its patch says, else as nearly as the curves tell."""
    patch = run.patch()
    if patch is not None and patch.provenance.base.n_parameters:
        return patch.provenance.base.n_parameters
    # the largest point knows it best, where rounding k to a whole number matters least: 1,600 entries at density 0.4
    # are of n = 4,000 weights, of which a patch of 40 is the share 0.01. Whole lines, or what few weights that moved
    # allow, may leave a part of a budget unfilled, so that the most is nearest
    largest = {method: max(line.items()) for method, line in curves.items()}
    fills = {method: row["k"].mean / density for method, (density, row) in largest.items()}
    return max([n for method, n in fills.items() if keeps_to_budget(method)] or fills.values())


def _by_share(line: Line, n: float) -> Line:
    """Return a line by the share of all weights that its patches have, which may not be the density asked for."""
    shares = {row["k"].mean / n: row for row in line.values()}
    return {share: shares[share] for share in sorted(shares)}


def _find_levels(run: RunFolder) -> dict[str, dict[str, float]]:
    """Return metric -> model -> the height that is drawn across the curves."""
    heights: dict[str, dict[str, float]] = {}
    if gain_of(run, "tuned"):
        heights["recovered_gain"] = {"base": 0.0, "tuned": 1.0}
    errors = {name: estimate_of(run, name, "ece") for name in ("base", "tuned")}
    return heights | {"ece": {name: error.mean for name, error in errors.items() if error}}


def plot_density_curves(
    curves: Curves, path: Path, *, title: str, levels: Mapping[str, Mapping[str, float]], at: float | None
) -> list[Path]:
    """Draw a panel for each metric of `levels`: the mean over seeds as a line, each seed as a small dot.

    Args:
        curves: the main method first, by the share of all weights.
        path: of the file, without suffix.
        title: over the panels.
        levels: metric -> name -> a height to draw across, such as the tuned model's.
        at: the density of the run's own patch, marked by a vertical line.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(4.6 * len(levels), 3.9)
        figure.suptitle(title, fontsize=10)
        panels = figure.subplots(1, len(levels), squeeze=False)[0]
        for axes, (metric, heights) in zip(panels, levels.items(), strict=True):
            for method, color in colors_of(list(curves)).items():
                _draw_line(axes, method, curves[method], metric, color)
            _draw_levels(axes, heights)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(_power)
            axes.xaxis.set_minor_formatter(lambda *_: "")
            axes.set_xlabel("share of all weights in the patch")
            axes.set_ylabel(label_of(metric))
            if at:
                axes.axvline(at, color=SOFT, linewidth=0.8, linestyle=":")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=max(1, len(names)), fontsize=9)
        return save_figure(figure, path)


def _draw_line(axes: Any, method: str, points: Line, metric: str, color: str) -> None:
    line = {share: row[metric] for share, row in points.items() if metric in row}
    marker = MARKERS.get(method, "D")
    means = [estimate.mean for estimate in line.values()]
    axes.plot(list(line), means, color=color, marker=marker, markersize=5.5, linewidth=1.8, label=short_label(method))
    pairs = [(share, value) for share, estimate in line.items() for value in estimate.values]
    if len(pairs) > len(line):
        axes.scatter(*zip(*pairs, strict=True), s=7, color=color, alpha=0.45, linewidths=0)


def _draw_levels(axes: Any, heights: Mapping[str, float]) -> None:
    """Draw each height as a dashed line, named at its right end; the lower name hangs, so that none overlap."""
    for name, height in heights.items():
        color = COLORS.get(name, INK)
        axes.axhline(height, color=color, linewidth=1, linestyle="--", zorder=0)
        axes.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(3, 0),
            va="bottom" if height == max(heights.values()) else "top",
            fontsize=8,
            color=SOFT if color == COLORS["base"] else color,
            annotation_clip=False,
        )


def _power(density: float, _: int) -> str:
    """Return a density as a power of ten: 10⁻⁴ for 1e-4."""
    exponent = f"{math.log10(density):.0f}"
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
