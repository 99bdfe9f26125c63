"""The overlap of the tasks' regions in a run of several tasks."""

from __future__ import annotations

from functools import partial

import numpy as np

from graft.compose.task_overlap import KEYS, TaskOverlap
from graft.report.plots.overlap_map import plot_task_overlap
from graft.report.plots.plot import Plot
from graft.report.run_folder import FinishedRun


def build_plot(run: FinishedRun) -> Plot | None:
    """Draw the Jaccard similarity of each two tasks' regions; None where it was not measured."""
    content = run.results.more.get("overlap")
    if content is None:
        return None
    means = {key: np.array(content[key], dtype=float) for key in KEYS if key in content}
    overlap = TaskOverlap(tuple(content["names"]), means)
    return Plot(
        partial(plot_task_overlap, overlap),
        alt=f"Matrix of the overlap of regions: {', '.join(overlap.names)}.",
        caption="Jaccard similarity of the regions of each two tasks, mean over pairs of seeds; below it, how many "
        "times as many entries they share as by chance.",
    )
