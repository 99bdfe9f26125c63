"""Sufficiency and necessity of a region: what it brings to the base, and what the tuned model loses without it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from graft.report.estimates import Estimate, average, decimal, gain_of, methods_of
from graft.report.plots.plot import Plot
from graft.report.plots.style import INK, SOFT, colors_of, in_style, new_figure, save_figure, short_label
from graft.report.run_folder import RunFolder


def build_plot(run: RunFolder) -> Plot | None:
    """Draw sufficiency and necessity of each method's region; None where neither was measured."""
    regions = list_regions(run)
    if not regions:
        return None
    return Plot(
        partial(plot_sufficiency_necessity, regions, title=f"{run.name}: is the region enough, and is it needed?"),
        alt="; ".join(
            f"{method}: sufficiency {decimal(a.mean)}, necessity {decimal(b.mean)}"
            for method, (a, b) in regions.items()
        ),
        caption="Filled: the share of the gain that the region alone brings to the base. Hollow: the share that the "
        "tuned model loses when the region is put back to the base's values. 1 is all of it, 0 nothing.",
    )


def list_regions(run: RunFolder) -> dict[str, tuple[Estimate, Estimate]]:
    """Return method -> sufficiency and necessity of its region, of those that have both.

    Sufficiency is the recovered gain; necessity (tuned - without) / (tuned - base), one less the gain without it.
    """
    regions = {}
    for method in methods_of(run):
        gain = gain_of(run, run.find_model("graft", method))
        gain_without = gain_of(run, run.find_model("without", method))
        if gain and gain_without:
            regions[method] = gain, average([1 - value for value in gain_without.values])
    return regions


def plot_sufficiency_necessity(
    regions: Mapping[str, tuple[Estimate, Estimate]], path: Path, *, title: str
) -> list[Path]:
    """Draw a row per method: filled, the share of the gain that the region brings; hollow, the share that it takes.

    Args:
        regions: method -> sufficiency, necessity, both in shares of the gain; the main method first.
        path: of the file, without suffix.
        title: over the plot.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(5.3, 1.8 + 0.55 * len(regions))
        axes = figure.subplots()
        axes.set_title(title)
        for x in (0, 1):
            axes.axvline(x, color=SOFT, linewidth=0.8, linestyle="--", zorder=0)
        for y, (method, color) in enumerate(colors_of(list(regions)).items()):
            for estimate, shift, face in zip(
                regions[method], (-0.13, 0.13), (color, axes.get_facecolor()), strict=True
            ):
                _draw_share(axes, estimate, y + shift, color, face)
        for face, label in (
            (INK, "base with the region (sufficiency)"),
            (axes.get_facecolor(), "tuned without (necessity)"),
        ):
            axes.plot([], [], "o", color=INK, markerfacecolor=face, label=label)
        axes.set_yticks(range(len(regions)), map(short_label, regions))
        axes.set_ylim(len(regions) - 0.5, -0.5)
        axes.set_xlabel("share of the gain of tuning")
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        return save_figure(figure, path)


def _draw_share(axes: Any, estimate: Estimate, y: float, color: str, face: Any) -> None:
    if estimate.low is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=1.6)
    axes.plot(estimate.mean, y, "o", color=color, markerfacecolor=face, markersize=7.5)
