"""The accuracy that each task's graft gains on each task, in a run of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from graft.report.plots.plot import Plot
from graft.report.plots.task_matrix import plot_task_matrix
from graft.report.run_folder import FinishedRun
from graft.results.seeds import MultitaskSeed
from graft.specs.multitask import BASE


def build_plot_of_grafts(run: FinishedRun) -> Plot | None:
    """Draw what the grafts cut from the models of one task each gain."""
    return _build_plot(run, "grafts", "graft alone")


def build_plot_of_shared(run: FinishedRun) -> Plot | None:
    """Draw what the grafts cut from the jointly tuned model gain; None where there are none."""
    return _build_plot(run, "shared", "graft cut from the jointly tuned model")


def _build_plot(run: FinishedRun, key: str, which: str) -> Plot | None:
    if not run.results.seeds or getattr(run.results.seeds[0], key) is None:
        return None
    names, gains = average_gains(run.results.seeds, key)
    title, note = f"Accuracy gained over the base by each task's {which}", "rows: the graft's task; columns: the task"
    return Plot(
        partial(plot_task_matrix, gains, names, names, title=title, note=f"{note} that is tested"),
        alt=f"Matrix of {title[0].lower()}{title[1:]}: {', '.join(names)}.",
        caption=f"{title}, mean over seeds; {note} that is tested.",
    )


def average_gains(seeds: Sequence[MultitaskSeed], key: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return the tasks, and the accuracy gained over the base, mean over seeds: row a graft's task, column a task."""
    names = list(getattr(seeds[0], key))
    pairs = [(getattr(seed, key), seed.methods[BASE]) for seed in seeds]
    gains = [[[grafts[of][on] - base[on]["accuracy"] for on in names] for of in names] for grafts, base in pairs]
    return names, np.mean(gains, axis=0)
