"""Average accuracy and backward transfer while tasks are learned in turn, a line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from graft.evaluate.continual_metrics import Triangle, follow_stages
from graft.report.plots.plot import Plot
from graft.report.plots.style import SOFT, in_style, new_figure, save_figure, short_label
from graft.report.run_folder import FinishedRun

_COLORS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#A6761D")
_PANELS = {
    "average": "Average accuracy on the tasks so far",
    "transfer": "Backward transfer: what earlier tasks gained",
}


def build_plot(run: FinishedRun) -> Plot | None:
    """Draw what each sequence of a run of several tasks costs, stage by stage; None without sequences."""
    results = run.results
    names = list(results.recipe.get("sequences") or ())
    if not names or not results.seeds:
        return None
    stages = {name: [seed.stages[name] for seed in results.seeds] for name in names}
    return Plot(
        partial(plot_continual_curves, stages, title=f"{run.name}: learning tasks in turn"),
        alt=f"Average accuracy and backward transfer after each task, by {', '.join(names)}.",
        caption="Average accuracy on the tasks so far, and backward transfer, after each task. Lines: mean over seeds; "
        "dots: seeds.",
    )


def plot_continual_curves(stages: Mapping[str, Sequence[Triangle]], path: Path, *, title: str) -> list[Path]:
    """Draw average accuracy and backward transfer after every stage.

    Args:
        stages: method -> for each seed the accuracies on tasks 0 ... s after each stage s. Lines: the mean over
            seeds; dots: the seeds.
        path: of the file, without suffix.
        title: of the figure.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(9.0, 3.8)
        figure.suptitle(title, fontsize=10, fontweight="bold")
        for axes, (key, label) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
            for number, (name, seeds) in enumerate(stages.items()):
                rows = np.array([[getattr(after, key) for after in follow_stages(seed)] for seed in seeds])
                color, x = _COLORS[number % len(_COLORS)], np.arange(1, rows.shape[1] + 1)
                axes.plot(x, rows.mean(0), color=color, marker="o", markersize=4, label=short_label(name))
                axes.plot(np.tile(x, len(rows)), rows.flatten(), ".", color=color, alpha=0.35, markersize=4)
            if key == "transfer":
                axes.axhline(0, color=SOFT, linewidth=0.8, linestyle=":")
            axes.set_xticks(x)
            axes.set_xlabel("tasks learned")
            axes.set_title(label)
        axes.legend(fontsize=8)
        return save_figure(figure, path)
