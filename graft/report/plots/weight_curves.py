"""How small a skill is: what patches keep against their number of weights, a line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from graft.evaluate.rounding import reaches
from graft.extraction.registry import EXTRACTION_METHODS
from graft.report.plots.extraction_curves import OTHER_STYLE, Line, list_lines, name_line
from graft.report.plots.extraction_curves import STYLES as ALL_STYLES
from graft.report.plots.plot import Plot
from graft.report.plots.style import COLORS, in_style, label_log, new_figure, save_figure
from graft.report.run_folder import FinishedRun
from graft.results.seeds import ExtractedPoint

ENOUGH = 0.9  # of the gain
PANELS = {"recovered_gain": "recovered gain", "ece": "ECE"}
LOWEST_GAIN, HIGHEST_GAIN = -0.25, 1.25
# here what is cut and what labels fit stand apart from the refits, which have the colors of the other plot
STYLES = ALL_STYLES | {
    "sparse_sft": ("#A6761D", "*", ":"),
    "cut": ("#D55E00", "v", "--"),
    "magnitude": ("#E69F00", "h", "--"),
}


def build_plot(run: FinishedRun) -> Plot | None:
    """Draw the patches of every method that has them at two or more sizes; None where none has."""
    lines = {
        method: line
        for method, line in list_lines(run.results.seeds).items()
        if len(line) > 1 and _is_of_density(method) and all(p.k for points in line.values() for p in points)
    }
    if not lines:
        return None
    tuned = fmean([seed.tuned["ece"] for seed in run.results.seeds])
    return Plot(
        partial(plot_weights, lines, tuned_ece=tuned, title=f"{run.name}: how many weights the skill takes"),
        alt="Recovered gain and calibration error of patches against their number of weights; numbers in the table.",
        caption="Lines: mean over seeds; small dots: seeds. Dotted: the tuned model. "
        f"A ring: the fewest weights of those measured whose mean gain reaches {ENOUGH:g}. Test split.",
    )


def _is_of_density(method: str) -> bool:
    return method not in EXTRACTION_METHODS or EXTRACTION_METHODS[method].unit == "density"


def plot_weights(lines: Mapping[str, Line], path: Path, *, tuned_ece: float, title: str) -> list[Path]:
    """Draw gain and calibration error, one above the other, on a shared logarithmic axis of weights.

    Args:
        lines: method -> its line.
        path: of the file, without suffix.
        tuned_ece: of the tuned model.
        title: over the panels.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(9.0, 7.0)
        figure.suptitle(title, fontsize=10)
        panels = figure.subplots(len(PANELS), 1, sharex=True)
        for axes, (metric, label), level in zip(panels, PANELS.items(), (1.0, tuned_ece), strict=True):
            for method, line in lines.items():
                _draw_line(axes, method, line, metric)
            axes.axhline(level, color=COLORS["tuned"], linewidth=0.8, linestyle=":", zorder=0)
            axes.set_xscale("log")
            axes.set_ylabel(label)
            axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        panels[0].set_ylim(LOWEST_GAIN, HIGHEST_GAIN)
        panels[1].set_ylim(bottom=0)
        label_log(panels[1].xaxis, lambda k: f"{k:,.0f}")
        panels[1].set_xlabel("weights of the patch")
        handles, names = panels[1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        return save_figure(figure, path)


def find_enough(line: Line) -> float | None:
    """Return the fewest weights whose mean gain is enough, of the sizes where every seed has one; None without any."""
    means = [_mean_of(points, "recovered_gain") for points in _measured(line, "recovered_gain")]
    return min((k for k, gain in means if k and reaches(gain, ENOUGH)), default=None)


def _mean_of(points: Sequence[ExtractedPoint], metric: str) -> tuple[float, float]:
    """Return the mean over seeds of the weights, of which a control may have others in each, and of a metric."""
    return fmean([point.k or 0 for point in points]), fmean([point.numbers[metric] for point in points])


def _measured(line: Line, metric: str) -> list[Sequence[ExtractedPoint]]:
    """Return the points of the sizes at which every seed has a metric; one whose tuning gained nothing lacks some."""
    return [points for points in line.values() if all(metric in point.numbers for point in points)]


def _draw_line(axes: Any, method: str, line: Line, metric: str) -> None:
    color, marker, dashes = STYLES.get(method, OTHER_STYLE)
    drawn = _measured(line, metric)
    if not drawn:
        return
    x, y = zip(*(_mean_of(points, metric) for points in drawn), strict=True)
    enough = find_enough(line)
    label = name_line(method) + ("" if enough is None else f"\n   {enough:,.0f} for {ENOUGH:g} of the gain")
    axes.plot(x, y, color=color, marker=marker, linestyle=dashes, markersize=6, linewidth=1.6, label=label)
    dots = [(point.k, point.numbers[metric]) for points in drawn if len(points) > 1 for point in points]
    if dots:
        axes.scatter(*zip(*dots, strict=True), s=7, color=color, alpha=0.45, linewidths=0)
    if enough is not None and metric == "recovered_gain":
        height = max(gain for k, gain in zip(x, y, strict=True) if k == enough)
        axes.plot([enough], [height], marker="o", markersize=13, fillstyle="none", color=color, linewidth=0)
