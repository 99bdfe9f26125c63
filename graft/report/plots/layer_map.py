"""Map of a mask: entries per layer and module, as a heat map."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graft.patch.mask import Mask
from graft.patch.summary import entries_by_layer
from graft.report.plots.plot import Plot
from graft.report.plots.style import in_style, new_figure, save_figure
from graft.report.run_folder import RunFolder


def build_plot(run: RunFolder) -> Plot | None:
    """Draw where the main patch of the first seed lies; None where the folder does not hold it."""
    patch = run.patch()
    if patch is None:
        return None
    seed, mask = run.seeds[0].seed, patch.mask
    of = f", the first of {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    layers, modules, counts = count_entries(mask)
    i, j = divmod(int(counts.argmax()), counts.shape[1])
    title = f"{run.name}: where the {len(mask):,} entries lie ({run.method}, seed {seed})"
    return Plot(
        partial(plot_layer_map, mask, title=title),
        alt=f"Map of layers by modules. The most entries, {counts[i, j]:,}, lie in {layers[i]}, {modules[j]}.",
        caption=f"Entries of the patch in each layer and module (weight and bias together), seed {seed}{of}; "
        "darker is more, on a logarithmic scale.",
    )


def plot_layer_map(mask: Mask, path: Path, *, title: str) -> list[Path]:
    """Draw the number of entries of each layer (rows) and module (columns).

    Args:
        mask: the mask.
        path: of the file, without suffix.
        title: over the map.

    Returns:
        The files written.
    """
    layers, modules, counts = count_entries(mask)
    with in_style():
        figure = new_figure(max(2.4 + 0.85 * len(modules), 0.5 + 0.085 * len(title)), 1.9 + 0.38 * len(layers))
        axes = figure.subplots()
        figure.suptitle(title, fontsize=10, fontweight="bold")
        image = axes.imshow(np.log10(1 + counts), cmap="Blues", aspect="auto")
        axes.set_xticks(range(len(modules)), modules, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(layers)), layers)
        axes.spines[:].set_visible(False)
        _write_counts(axes, counts, image)
        return save_figure(figure, path)


def count_entries(mask: Mask) -> tuple[list[str], list[str], np.ndarray]:
    """Return row names, column names and the (n_layers, n_modules) counts; weight and bias of a module are one."""
    by_layer = entries_by_layer(mask)
    modules = sorted({_module(name) for row in by_layer.values() for name in row})
    counts = np.zeros((len(by_layer), len(modules)), int)
    for i, row in enumerate(by_layer.values()):
        for name, k in row.items():
            counts[i, modules.index(_module(name))] += k
    return list(by_layer), modules, counts


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _write_counts(axes: Any, counts: np.ndarray, image: Any) -> None:
    middle = image.norm.vmax * 0.6
    for (i, j), k in np.ndenumerate(counts):
        color = "white" if np.log10(1 + k) > middle else "black"
        axes.text(j, i, f"{k:,}" if k else "·", ha="center", va="center", fontsize=8, color=color)
