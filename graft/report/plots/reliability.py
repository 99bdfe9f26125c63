"""Reliability diagrams side by side: how often a model is right against how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graft.evaluate.calibration import ReliabilityBins
from graft.report.estimates import controls_of, decimal, estimate_of
from graft.report.plots.plot import Plot
from graft.report.plots.style import INK, in_style, model_color, new_figure, save_figure, short_label
from graft.report.run_folder import RunFolder

PER_ROW = 4


def build_plot(run: RunFolder) -> Plot | None:
    """Draw base, tuned, the main graft and the controls; None where no model has bins."""
    wanted = ("base", "tuned", run.main, *controls_of(run))
    names = [name for name in wanted if _has_same_edges(run, name)]
    if not names:
        return None
    pooled = {name: pool_bins([seed.bins[name] for seed in run.seeds]) for name in names}
    over = f"{len(run.seeds)} seeds pooled" if len(run.seeds) > 1 else "1 seed"
    errors = {name: error.mean for name in names if (error := estimate_of(run, name, "ece"))}
    return Plot(
        partial(plot_reliability, pooled, title=f"{run.name}: reliability on test, {over}", errors=errors),
        alt="Reliability diagrams on test. " + "; ".join(f"{name}: ECE {decimal(x)}" for name, x in errors.items()),
        caption="How often a model is right (bars) against how sure it is; the dashed diagonal is perfect calibration, "
        f"below it a model is too sure. Test split, {over}; the ECE is the mean over seeds, as in the table.",
    )


def _has_same_edges(run: RunFolder, name: str) -> bool:
    """Return whether all seeds have bins of a model that can be pooled."""
    edges = [seed.bins[name].edges for seed in run.seeds if name in seed.bins]
    return len(edges) == len(run.seeds) and all(np.array_equal(edges[0], other) for other in edges)


def plot_reliability(
    models: Mapping[str, ReliabilityBins], path: Path, *, title: str, errors: Mapping[str, float] | None = None
) -> list[Path]:
    """Draw one panel per model; bars are accuracy per confidence bin, the diagonal is perfect calibration.

    Args:
        models: name -> its bins; names that start with base, tuned or graft get their colors.
        path: of the file, without suffix.
        title: over all panels.
        errors: name -> the ECE to write over its panel, where it is not that of the bins: pooling seeds lowers it.

    Returns:
        The files written.
    """
    with in_style():
        columns, rows = min(PER_ROW, len(models)), -(-len(models) // PER_ROW)
        figure = new_figure(3.1 * columns, 0.5 + 3.4 * rows)
        figure.suptitle(f"{title}\nhatched: gap between confidence and accuracy", fontsize=10)
        grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[4, 1] * rows)
        left = min(_left_edge(bins) for bins in models.values())
        for position, (name, bins) in enumerate(models.items()):
            row, column = divmod(position, PER_ROW)
            _draw_accuracy(grid[2 * row][column], name, bins, left)
            _name_panel(grid[2 * row][column], name, (errors or {}).get(name, float(bins.share @ bins.gap)))
            _draw_counts(grid[2 * row + 1][column], name, bins, left)
        for row in range(rows):
            grid[2 * row][0].set_ylabel("accuracy in bin")
            grid[2 * row + 1][0].set_ylabel("share")
        for position in range(len(models), rows * columns):
            for axes in grid[2 * (position // columns) : 2 * (position // columns) + 2, position % columns]:
                axes.set_axis_off()
        return save_figure(figure, path)


def pool_bins(parts: list[ReliabilityBins]) -> ReliabilityBins:
    """Return bins of several runs on the same equal-width edges as one, weighted by their counts."""
    count = np.sum([part.count for part in parts], axis=0)
    with np.errstate(invalid="ignore"):
        means = [
            np.sum([np.nan_to_num(getattr(part, key)) * part.count for part in parts], axis=0) / count
            for key in ("confidence", "accuracy")
        ]
    return ReliabilityBins(parts[0].edges, count, *means)


def _draw_accuracy(axes: Any, name: str, bins: ReliabilityBins, left: float) -> None:
    width = np.diff(bins.edges)
    filled = bins.count > 0
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    axes.bar(
        bins.edges[:-1][filled],
        bins.accuracy[filled],
        width[filled],
        align="edge",
        color=model_color(name),
        alpha=0.75,
    )
    # the gap between what the model promised and what it held
    axes.bar(
        bins.edges[:-1][filled],
        bins.confidence[filled] - bins.accuracy[filled],
        width[filled],
        bottom=bins.accuracy[filled],
        align="edge",
        facecolor="none",
        edgecolor=INK,
        linewidth=0.5,
        hatch="////",
    )
    axes.set_xlim(left, 1)
    axes.tick_params(labelbottom=False)
    axes.set_ylim(0, 1)


def _draw_counts(axes: Any, name: str, bins: ReliabilityBins, left: float) -> None:
    axes.bar(bins.edges[:-1], bins.share, np.diff(bins.edges), align="edge", color=model_color(name), alpha=0.75)
    axes.set_xlabel("confidence")
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1)


def _left_edge(bins: ReliabilityBins) -> float:
    """Return the left end of the axis: with two labels no confidence lies under a half, and that part is left out."""
    return 0.45 if bins.count[bins.edges[1:] <= 0.45].sum() == 0 else 0.0


def _name_panel(axes: Any, name: str, ece: float) -> None:
    name = short_label(name)
    axes.set_title(f"{name}: ECE {ece:.3f}" if len(name) < 22 else f"{name}:\nECE {ece:.3f}")
