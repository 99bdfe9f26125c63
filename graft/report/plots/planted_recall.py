"""What every method finds of a planted mask against the drift: a panel a size of the mask, a line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from graft.registry import name_number
from graft.report.plots.plot import Plot
from graft.report.plots.style import in_style, label_log, new_figure, save_figure, short_label
from graft.report.run_folder import FinishedRun
from graft.results.planted import PlantedSeed

Lines = Mapping[str, Mapping[float, Sequence[float]]]  # method -> drift -> recall of every seed
# Okabe and Ito's, without yellow, which is too pale for lines
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#A6761D", "#1b2430")
_MARKERS = "os^Dv<>Pp*hX"


def build_plot(run: FinishedRun) -> Plot | None:
    """Draw the recall of every method; None where no seed has a place."""
    panels = list_panels(run.results.seeds)
    if not panels:
        return None
    return Plot(
        partial(plot_recall, panels, title=f"{run.name}: who finds what was planted?"),
        alt="Recall of the planted entries against the size of the drift, by method; the numbers are in the table.",
        caption="Share of the planted entries among as many that a method chooses. Lines: mean over seeds; small dots: "
        "seeds. Right: the drift outgrows the planted movement.",
    )


def list_panels(seeds: Sequence[PlantedSeed]) -> dict[str, Lines]:
    """Return density and overlap, in words -> method -> drift, ascending -> recall of every seed."""
    panels: dict[str, dict[str, dict[float, list[float]]]] = {}
    for seed in seeds:
        for place in sorted(seed.cells, key=lambda place: place.ratio):
            panel = panels.setdefault(f"density {name_number(place.density)}, overlap {name_number(place.overlap)}", {})
            for method, numbers in place.methods.items():
                line = panel.setdefault(method, {})  # also where no budget is filled: colors stay
                if "recall" in numbers:
                    line.setdefault(place.ratio, []).append(numbers["recall"])
    for panel in panels.values():  # a mean over some of the seeds would stand beside means over all
        for method, line in panel.items():
            panel[method] = {ratio: values for ratio, values in line.items() if len(values) == len(seeds)}
    return panels  # type: ignore[return-value]


def plot_recall(panels: Mapping[str, Lines], path: Path, *, title: str) -> list[Path]:
    """Draw the panels side by side.

    Args:
        panels: title -> its lines.
        path: of the file, without suffix.
        title: over the panels.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(max(5.0, 3.6 * len(panels)), 4.2)
        figure.suptitle(title, fontsize=10)
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (name, lines) in zip(row, panels.items(), strict=True):
            for i, (method, line) in enumerate(lines.items()):
                color, marker = _COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)]
                means = [fmean(values) for values in line.values()]
                axes.plot(list(line), means, color=color, marker=marker, markersize=5, label=short_label(method))
                dots = [(drift, value) for drift, values in line.items() for value in values]
                if len(dots) > len(line):
                    axes.scatter(*zip(*dots, strict=True), s=7, color=color, alpha=0.45, linewidths=0)
            axes.set_xscale("log")
            label_log(axes.xaxis, lambda ratio: f"{ratio:g}")
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("drift over planted movement")
        row[0].set_ylabel("recall of planted entries")
        row[0].set_ylim(-0.03, 1.03)
        handles, names = row[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        return save_figure(figure, path)
