"""Sufficiency and necessity of a region: what it brings to the base, and what the tuned model loses without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.report.estimates import Estimate
from graft.report.plots.style import INK, SOFT, colors_of, in_style, new_figure, save_figure, short_label


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
