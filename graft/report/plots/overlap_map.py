"""Overlap of regions: a heat map against chance, and the tree of single linkage."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graft.compose.clusters import leaf_order, to_linkage
from graft.compose.region_overlap import Overlap
from graft.compose.task_overlap import TaskOverlap
from graft.files.claims import Output
from graft.files.outputs import new_folder
from graft.report.plots.style import COLORS, INK, SOFT, in_style, new_figure, save_figure, short_label
from graft.report.plots.task_matrix import plot_task_matrix
from graft.results.cells import times

MOST_WRITTEN = 16  # regions up to which each cell carries its numbers


def write_overlap(overlap: Overlap, folder: Output, *, force: bool = False) -> None:
    """Write a folder with overlap.json, overlap_map.png and dendrogram.png.

    Raises:
        OutputError: it exists and `force` is off, or cannot be written.
    """
    with _make_folder(overlap, folder, force) as directory:
        plot_overlap_map(overlap, directory / "overlap_map")
        plot_dendrogram(overlap, directory / "dendrogram")


def plot_overlap_map(overlap: Overlap, path: Path) -> list[Path]:
    """Draw the Jaccard similarity of each two regions, in the tree's order; under it, its ratio to chance.

    Chance keeps each column's counts, in each tensor; where it is not known, no ratio is written. The diagonal, where a
    region meets itself, is left out.

    Returns:
        The files written.
    """
    order = list(leaf_order(overlap.joins))
    names = _plot_names(overlap, order)
    grid = np.ix_(order, order)
    similarity = overlap.matrix()[grid]
    side = max(2.2, 0.8 * len(order)) if len(order) <= MOST_WRITTEN else 10.0
    with in_style():
        figure = new_figure(side + 2.4 + 0.05 * max(map(len, names)), side + 1.2 + 0.03 * max(map(len, names)))
        axes = figure.subplots()
        title = "Jaccard similarity of regions, × what chance gives column by column"
        figure.suptitle(title, fontsize=10, fontweight="bold")
        image = axes.imshow(np.ma.masked_invalid(similarity), cmap="Blues", vmin=0)
        axes.set_xticks(range(len(order)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(order)), names)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.8)
        if len(order) <= MOST_WRITTEN:
            ratio = overlap.matrix("intersection")[grid] / np.maximum(
                overlap.matrix("expected_by_column")[grid], 1e-300
            )
            _write_cells(axes, similarity, ratio, image)
        return save_figure(figure, path)


def write_task_overlap(overlap: TaskOverlap, folder: Output, *, force: bool = False) -> None:
    """Write a folder with overlap.json and overlap_map.png, of tasks over several seeds.

    Raises:
        OutputError: it exists and `force` is off, or cannot be written.
    """
    with _make_folder(overlap, folder, force) as directory:
        plot_task_overlap(overlap, directory / "overlap_map")


def plot_task_overlap(overlap: TaskOverlap, path: Path) -> list[Path]:
    """Draw the mean Jaccard similarity of each two tasks, and under it its ratio to chance.

    Returns:
        The files written.
    """
    unit = "column" if "expected_by_column" in overlap.means else "tensor"  # of results of before
    return plot_task_matrix(
        overlap.means["jaccard"],
        overlap.names,
        overlap.names,
        path,
        title=f"Jaccard similarity of regions, × what chance gives {unit} by {unit}",
        below=overlap.means["intersection"] / overlap.means[f"expected_by_{unit}"],
        note="diagonal: one task over two seeds, the ceiling",
    )


def plot_dendrogram(overlap: Overlap, path: Path) -> list[Path]:
    """Draw the tree of single linkage over 1 - Jaccard, and the threshold of the clusters.

    Returns:
        The files written.
    """
    from scipy.cluster.hierarchy import dendrogram

    m = len(overlap.names)
    clustered = [join.similarity >= overlap.threshold for join in overlap.joins]
    tree = dendrogram(
        to_linkage(overlap.joins),
        no_plot=True,
        link_color_func=lambda cluster: COLORS["graft"] if clustered[cluster - m] else SOFT,
    )
    with in_style():
        figure = new_figure(6.4, 1.2 + 0.3 * m)
        axes = figure.subplots()
        # scipy puts leaf i at 10 i + 5 and draws each join as a bracket of four points
        for distance, leaf, color in zip(tree["dcoord"], tree["icoord"], tree["color_list"], strict=True):
            axes.plot(distance, (np.array(leaf) - 5) / 10, color=color)
        axes.axvline(1 - overlap.threshold, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(m), _plot_names(overlap, tree["leaves"]))
        axes.set_xlim(0, 1.02)
        axes.set_xlabel(f"1 - Jaccard similarity; clusters from {overlap.threshold:g} on are joined left of the dots")
        axes.set_title("Which regions hang together")
        return save_figure(figure, path)


@contextlib.contextmanager
def _make_folder(overlap: Overlap | TaskOverlap, folder: Output, force: bool) -> Iterator[Path]:
    """Make a new folder with overlap.json, to be filled with plots."""
    with new_folder(folder, force=force) as directory:
        text = json.dumps(overlap.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (directory / "overlap.json").write_text(text + "\n", encoding="utf-8")
        yield directory


def _plot_names(overlap: Overlap, order: Sequence[int]) -> list[str]:
    """Return labels without folders and suffixes, where they still tell the regions apart."""
    bare = [name.rpartition("/")[2].removesuffix(".safetensors") for name in overlap.names]
    names = bare if len(set(bare)) == len(bare) else overlap.names
    return [short_label(names[i]) for i in order]


def _write_cells(axes: Any, similarity: np.ndarray, ratio: np.ndarray, image: Any) -> None:
    middle = image.norm.vmax * 0.6
    for (i, j), value in np.ndenumerate(similarity):
        if i != j:
            color = "white" if value > middle else "black"
            shown = "no chance" if ratio[i, j] >= 1e6 else "" if np.isnan(ratio[i, j]) else times(float(ratio[i, j]))
            axes.text(j, i, f"{value:.3f}\n{shown}", ha="center", va="center", fontsize=8, color=color)
