"""The plots of a finished run.

A plot is a file with a function from `graft.report.run_folder.FinishedRun` to a `graft.report.plots.plot.Plot`, or to
None where the run lacks what it shows; and a row here. `graft run` draws the rows of its kind into the run's folder,
and the page of `graft report` draws those that a section asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from graft.registry import Entry, Registry

_PLOTS = "graft.report.plots."


@dataclass(frozen=True, kw_only=True)
class PlotEntry(Entry):
    """Plot of a run; `name` is that of its file, without suffix.

    Attributes:
        kinds: kinds of recipes whose runs have it; every kind where there is none.
        section: section of the page (`graft.report.registry`) that shows it, for runs of one task.
        in_folder: whether `graft run` draws it into the run's folder; false for those that the page alone shows.
    """

    kinds: tuple[str, ...] = ()
    section: str = "more_plots"
    in_folder: bool = True

    def applies_to(self, kind: str) -> bool:
        """Return whether runs of a kind of recipe have it."""
        return not self.kinds or kind in self.kinds


PLOTS = Registry(
    "plot of a run",
    [
        PlotEntry(
            name="reliability",
            help="how often a model is right against how sure it is",
            target=f"{_PLOTS}reliability:build_plot",
            source="https://arxiv.org/abs/1706.04599",
            kinds=("single",),
            section="reliability",
        ),
        PlotEntry(
            name="layers",
            help="entries of the first seed's patch by layer and module",
            target=f"{_PLOTS}layer_map:build_plot",
            kinds=("single",),
            section="layers",
        ),
        PlotEntry(
            name="dimensions",
            help="entries of the first seed's patch by layer and dimension of the residual stream",
            target=f"{_PLOTS}stream_map:build_plot",
            kinds=("single",),
            section="explanation",
            in_folder=False,
        ),
        PlotEntry(
            name="differences",
            help="the graft minus every other model, paired by example, as a forest",
            target=f"{_PLOTS}comparison_forest:build_plot",
            kinds=("single",),
            section="comparisons",
            in_folder=False,
        ),
        PlotEntry(
            name="controls",
            help="accuracy against calibration error, of the graft and of simpler models",
            target=f"{_PLOTS}trade_off:build_plot",
            kinds=("single",),
            section="controls",
            in_folder=False,
        ),
        PlotEntry(
            name="sufficiency-necessity",
            help="what each region brings to the base and takes from the tuned model",
            target=f"{_PLOTS}sufficiency_necessity:build_plot",
            kinds=("single",),
            section="sufficiency_necessity",
            in_folder=False,
        ),
        PlotEntry(
            name="curves",
            help="recovered gain and calibration error against density",
            target=f"{_PLOTS}density_curves:build_plot",
            kinds=("single",),
            section="density_curves",
            in_folder=False,
        ),
        PlotEntry(
            name="overlap",
            help="Jaccard similarity of the tasks' regions, and its ratio to chance",
            target=f"{_PLOTS}region_matrix:build_plot",
            kinds=("multitask",),
        ),
        PlotEntry(
            name="grafts",
            help="accuracy that each task's graft alone gains on each task",
            target=f"{_PLOTS}gain_matrix:build_plot_of_grafts",
            kinds=("multitask",),
        ),
        PlotEntry(
            name="shared",
            help="likewise, of grafts cut from the jointly tuned model",
            target=f"{_PLOTS}gain_matrix:build_plot_of_shared",
            kinds=("multitask",),
        ),
        PlotEntry(
            name="stages",
            help="average accuracy and backward transfer while tasks are learned in turn",
            target=f"{_PLOTS}continual_curves:build_plot",
            kinds=("multitask",),
        ),
        PlotEntry(
            name="plane",
            help="gain on a new domain against the change elsewhere, and the Pareto front",
            target=f"{_PLOTS}pareto:build_plot",
            kinds=("forgetting",),
        ),
        PlotEntry(
            name="bytes",
            help="what every method keeps of the tuned model against the bytes that it takes: recovered gain, and KL "
            "to the tuned model's predictions; in brackets what a method needs beside the two checkpoints",
            target=f"{_PLOTS}extraction_curves:build_plot",
            kinds=("extraction",),
        ),
        PlotEntry(
            name="weights",
            help="recovered gain and calibration error of patches against their number of weights, and the number that "
            "first reaches nine tenths of the gain",
            target=f"{_PLOTS}weight_curves:build_plot",
            kinds=("extraction",),
        ),
        PlotEntry(
            name="recall",
            help="what every method finds of a planted mask against the size of the drift",
            target=f"{_PLOTS}planted_recall:build_plot",
            kinds=("planted",),
        ),
    ],
)
