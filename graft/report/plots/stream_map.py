"""Map of the residual stream: entries by dimension and layer, all dimensions above and the commonest ones below."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graft.errors import ConfigError
from graft.explain.explanation import INTO, Explanation, explain_mask
from graft.files.claims import Output
from graft.files.outputs import new_file
from graft.patch.summary import natural_key
from graft.report.plots.plot import Plot
from graft.report.plots.style import COLORS, SOFT, in_style, new_figure, save_figure
from graft.report.run_folder import RunFolder

COLUMNS = 12  # dimensions in the table below
_LARGEST = 260.0  # of a mark, in square points


def build_plot(run: RunFolder) -> Plot | None:
    """Draw the stream of the first seed's main patch; None where the folder does not hold it, or nothing meets it."""
    patch = run.patch()
    if patch is None:
        return None
    explanation = explain_mask(patch.mask)
    if not explanation.stream:
        return None
    return Plot(
        partial(plot_stream, explanation, title=f"{run.name}: dimensions of the residual stream"),
        alt=f"Map of layers by dimensions. The commonest dimension is {explanation.stream[0]}.",
        caption=describe_map(explanation) + f" Seed {run.seeds[0].seed}.",
    )


def describe_map(explanation: Explanation) -> str:
    """Return how to read the map."""
    return (
        f"Entries by layer and by dimension of the residual stream, {explanation.width:,} wide: in matrices that read "
        "it, by input; in matrices that write to it with their biases, by output; in embeddings and norms. The area of "
        "a mark is the number of entries. Below, the dimensions that most entries read."
    )


def write_stream(explanation: Explanation, file: Output, *, title: str) -> None:
    """Write the map as one PNG.

    Raises:
        ConfigError: no entry meets the residual stream.
        OutputError: it exists, and the claim to it was made without force; or it cannot be written.
    """
    if not explanation.stream:
        raise ConfigError("no entry meets the residual stream, so that there is nothing to draw: leave --plot out")
    with new_file(file) as new:
        drawn = plot_stream(explanation, new.with_name("drawn"), title=title)
        drawn[0].replace(new)


def plot_stream(explanation: Explanation, path: Path, *, title: str) -> list[Path]:
    """Draw entries by dimension of the residual stream and layer.

    Args:
        explanation: of the mask.
        path: of the file, without suffix.
        title: over the map.

    Returns:
        The files written.
    """
    reads, into = explanation.layers_of("reads"), explanation.layers_of(*INTO)
    layers = sorted({*reads, *into}, key=natural_key)
    height = 0.24 * max(len(layers), 3)
    with in_style():
        figure = new_figure(8.2, 2 * height + 2.6)
        above, below = figure.subplots(2, 1, height_ratios=(height + 0.4, height + 0.4))
        figure.suptitle(title, fontsize=10, fontweight="bold")
        largest = max(int(counts.max(initial=1)) for counts in (*reads.values(), *into.values()))
        for counts, color, label in ((into, COLORS["tuned"], "written or scaled"), (reads, COLORS["graft"], "read")):
            _mark_entries(above, counts, layers, largest, color, label)
        _frame_marks(above, layers, explanation.width)
        _draw_table(below, explanation, reads or into, layers)
        return save_figure(figure, path)


def _mark_entries(
    axes: Any, counts: dict[str, np.ndarray], layers: list[str], largest: int, color: str, label: str
) -> None:
    for layer, of_layer in counts.items():
        x = np.flatnonzero(of_layer)
        sizes = np.maximum(_LARGEST * of_layer[x] / largest, 1.5)  # a single entry is to be seen too
        axes.scatter(
            x, np.full(len(x), layers.index(layer)), s=sizes, color=color, alpha=0.55, linewidths=0, label=label
        )
        label = f"_{label}"  # once in the legend


def _frame_marks(axes: Any, layers: list[str], width: int) -> None:
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(-0.015 * width, 1.015 * width)
    axes.set_xlabel("dimension of the residual stream")
    axes.grid(axis="y", color=SOFT, alpha=0.2, linewidth=0.5)
    axes.set_axisbelow(True)
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=8, borderaxespad=0.2)
    for handle in legend.legend_handles:
        handle.set_sizes([30])


def _draw_table(axes: Any, explanation: Explanation, counts: dict[str, np.ndarray], layers: list[str]) -> None:
    """Write the entries of the commonest dimensions, layer by layer."""
    shown, rows = explanation.stream[:COLUMNS], [layer for layer in layers if layer in counts]
    table = np.array([counts[layer][shown] for layer in rows])
    image = axes.imshow(np.log10(1 + table), cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(shown)), shown)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("the commonest dimensions, and their entries")
    middle = image.norm.vmax * 0.6
    for (i, j), k in np.ndenumerate(table):
        color = "white" if np.log10(1 + k) > middle else "black"
        axes.text(j, i, f"{k:,}" if k else "·", ha="center", va="center", fontsize=7.5, color=color)
