"""What extraction keeps against bytes: gain above, divergence from the tuned model below, a line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from graft.extraction.registry import EXTRACTION_METHODS
from graft.report.plots.plot import Plot
from graft.report.plots.style import COLORS, SOFT, in_style, label_log, new_figure, save_figure, short_label
from graft.report.run_folder import FinishedRun
from graft.results.cells import file_size
from graft.results.seeds import ExtractedPoint, ExtractionSeed

Line = Mapping[float, Sequence[ExtractedPoint]]  # size -> the point of every seed
PANELS = {"recovered_gain": "recovered gain", "kl": "KL to the tuned model, nats"}
LOWEST_GAIN, HIGHEST_GAIN = -0.25, 1.25
LOWEST_KL = 1e-4  # nats; what is below, down to the rounding of a dense difference, is drawn here
# Okabe and Ito's palette; kin share a color, and no two methods a style
STYLES = {
    "refit": ("#0072B2", "o", "-"),
    "cut": ("#56B4E9", "s", "-"),
    "magnitude": ("#56B4E9", "^", "--"),
    "columns": ("#009E73", "|", "-"),
    "rows": ("#009E73", "_", "--"),
    "rank": ("#0072B2", "8", "-."),
    "svd": ("#D55E00", "D", "-"),
    "lora": ("#CC79A7", "P", "-"),
    "lora_qv": ("#CC79A7", "X", "--"),
    "bitdelta": ("#E69F00", "v", "-"),
    "bitdelta_distilled": ("#E69F00", "*", "--"),
    "ultradelta": ("#A6761D", "h", "-"),
    "dense": ("#1b2430", "p", "-"),
    "refit_random": ("#5a6675", "x", "-"),
    "sparse_sft": ("#5a6675", "*", "--"),
    # variants of a refit, which stand beside each other in recipes of their own
    "refit_again": ("#0072B2", "+", ":"),
    "refit_magnitude": ("#009E73", "^", "-"),
    "refit_attribution": ("#56B4E9", "s", ":"),
    "refit_labels": ("#0072B2", "P", ":"),
    "refit_texts": ("#A6761D", "d", "--"),
    "refit_other_texts": ("#D55E00", "*", ":"),
    "lt_sft": ("#CC79A7", "D", ":"),
    "refit_columns": ("#009E73", "|", ":"),
    "refit_rows": ("#009E73", "_", ":"),
    "refit_rank": ("#0072B2", "8", ":"),
    # controls of a patch
    "random_rows": ("#5a6675", "<", ":"),
    "random_columns": ("#5a6675", ">", ":"),
    "whole_columns": ("#E69F00", "D", ":"),
    "random_in_tensors": ("#5a6675", "1", ":"),
    "vectors_only": ("#5a6675", "2", ":"),
    "sparta": ("#A6761D", "P", ":"),
}
OTHER_STYLE = ("#5a6675", ".", ":")


def build_plot(run: FinishedRun) -> Plot | None:
    """Draw what every method keeps against its bytes; None where no seed has a point."""
    lines = list_lines(run.results.seeds)
    if not lines:
        return None
    return Plot(
        partial(plot_extraction, lines, whole=run.results.seeds[0].n_bytes, title=f"{run.name}: what is kept of it"),
        alt="Recovered gain and KL to the tuned model against bytes; the numbers are in the table.",
        caption="Lines: mean over seeds; small dots: seeds. Dotted: the tuned model's gain, and its own bytes. In "
        "brackets: what a method needs beside the two checkpoints. Better is left and up above, left and down below; "
        f"gains are drawn from {LOWEST_GAIN:g} to {HIGHEST_GAIN:g}, a KL below {LOWEST_KL:g} as that. Test split.",
    )


def list_lines(seeds: Sequence[ExtractionSeed]) -> dict[str, dict[float, list[ExtractedPoint]]]:
    """Return method -> size -> the point of every seed; sizes that a seed lacks are left out."""
    lines: dict[str, dict[float, list[ExtractedPoint]]] = {}
    for seed in seeds:
        for point in seed.points:
            lines.setdefault(point.method, {}).setdefault(point.size, []).append(point)
    whole = {
        method: {size: points for size, points in sorted(line.items()) if len(points) == len(seeds)}
        for method, line in lines.items()
    }
    return {method: line for method, line in whole.items() if line}


def plot_extraction(lines: Mapping[str, Line], path: Path, *, whole: float, title: str) -> list[Path]:
    """Draw gain and, of labels, KL, one above the other, on a shared logarithmic axis of bytes.

    Args:
        lines: method -> its line.
        path: of the file, without suffix.
        whole: bytes of the tuned weights, marked by a vertical line.
        title: over the panels.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(9.0, 7.6)
        figure.suptitle(title, fontsize=10)
        points = [point for line in lines.values() for of_seeds in line.values() for point in of_seeds]
        shown = [metric for metric in PANELS if metric != "kl" or any("kl" in point.numbers for point in points)]
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, metric in zip(panels, shown, strict=True):
            for method, line in lines.items():
                _draw_line(axes, method, line, metric)
            axes.set_xscale("log")
            axes.axvline(whole, color=SOFT, linewidth=0.8, linestyle=":")
            axes.set_ylabel(PANELS[metric])
            axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        panels[0].axhline(1, color=COLORS["tuned"], linewidth=0.8, linestyle=":", zorder=0)
        panels[0].set_ylim(LOWEST_GAIN, HIGHEST_GAIN)
        if "kl" in shown:
            panels[-1].set_yscale("log")
            label_log(panels[-1].yaxis, lambda nats: f"{nats:g}")
        label_log(panels[-1].xaxis, file_size)
        panels[-1].set_xlabel("bytes as stored, without the base")
        handles, names = panels[-1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        return save_figure(figure, path)


def _draw_line(axes: Any, method: str, line: Line, metric: str) -> None:
    color, marker, dashes = STYLES.get(method, OTHER_STYLE)
    drawn = [points for points in line.values() if all(metric in point.numbers for point in points)]
    means = [
        (fmean([point.n_bytes for point in points]), fmean([_height(point, metric) for point in points]))
        for points in drawn
    ]
    if not means:
        return
    x, y = zip(*means, strict=True)
    axes.plot(x, y, color=color, marker=marker, linestyle=dashes, markersize=6, linewidth=1.6, label=name_line(method))
    dots = [(point.n_bytes, _height(point, metric)) for points in drawn if len(points) > 1 for point in points]
    if dots:
        axes.scatter(*zip(*dots, strict=True), s=7, color=color, alpha=0.45, linewidths=0)


def _height(point: ExtractedPoint, metric: str) -> float:
    return max(point.numbers[metric], LOWEST_KL) if metric == "kl" else point.numbers[metric]


def name_line(method: str) -> str:
    """Return a method's name with what it needs beside the two checkpoints, for a legend."""
    needs = f" ({EXTRACTION_METHODS[method].needs})" if method in EXTRACTION_METHODS else ""
    return short_label(method) + needs
