"""The main graft minus every other model of a run, as a forest."""

from __future__ import annotations

from functools import partial

from graft.report.estimates import Paired, difference_of, rivals_of
from graft.report.plots.forest import READING, plot_forest
from graft.report.plots.plot import Plot
from graft.report.run_folder import RunFolder


def build_plot(run: RunFolder) -> Plot | None:
    """Compare the main graft with every other model on test, in accuracy and ECE; None without differences."""
    differences = {title: list_differences(run, metric) for title, metric in (("accuracy", "accuracy"), ("ECE", "ece"))}
    panels = {title: rows for title, rows in differences.items() if rows}
    if not panels:
        return None
    rows = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    return Plot(
        partial(plot_forest, panels, title=f"{run.name}: {run.main} minus …, on test", rows=rows),
        alt="Forest plot of paired differences on test; the numbers are in the table below.",
        caption=f"{READING} (with one seed: over examples).",
    )


def list_differences(run: RunFolder, metric: str) -> dict[str, Paired]:
    """Return model -> the main graft's difference from it on test, of those that were compared."""
    pairs = {name: difference_of(run, name, metric) for name in rivals_of(run)}
    return {name: paired for name, paired in pairs.items() if paired}
