"""A matrix of tasks by tasks as a heat map with its numbers written in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graft.report.plots.style import in_style, new_figure, save_figure, short_label
from graft.results.cells import times

Matrix = npt.NDArray[np.float64]


def plot_task_matrix(
    values: Matrix,
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    *,
    title: str,
    below: Matrix | None = None,
    note: str = "",
) -> list[Path]:
    """Draw a matrix; cells without a value stay empty.

    Values of both signs are colored around 0 (orange below, blue above), others from 0 up.

    Args:
        values: (rows, columns).
        rows, columns: their names.
        path: of the file, without suffix.
        title: what is drawn.
        below: a second number of each cell, written under the first with a multiplication sign.
        note: how to read it, written under the axis.

    Returns:
        The files written.
    """
    largest = float(np.nanmax(np.abs(values))) or 1.0
    signed = bool(np.nanmin(values) < 0)
    with in_style():
        figure = new_figure(3.0 + 0.85 * len(columns), 1.9 + 0.62 * len(rows))
        axes = figure.subplots()
        figure.suptitle(title, fontsize=10, fontweight="bold")
        colors, least = ("PuOr", -largest) if signed else ("Blues", 0.0)
        image = axes.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=colors, vmin=least, vmax=largest)
        axes.set_xticks(range(len(columns)), map(short_label, columns), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), map(short_label, rows))
        axes.set_xlabel(note)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.8)
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                shade = abs(value) / largest
                text = f"{value:+.3f}" if signed else f"{value:.3f}"
                text += "" if below is None or not np.isfinite(below[i, j]) else f"\n{times(float(below[i, j]))}"
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if shade > 0.6 else "black")
        return save_figure(figure, path)
