"""The main graft minus every other model: a forest, and the numbers beneath."""

from __future__ import annotations

from graft.report.estimates import Paired, difference_of, rivals_of, sets_of
from graft.report.page.cells import apart_cell, paired_cell
from graft.report.page.document import section
from graft.report.page.markup import Html, Table, folded
from graft.report.page.run_page import RunPage
from graft.report.plots.forest import READING, plot_forest
from graft.report.run_folder import RunFolder


def build_section(page: RunPage) -> Html | None:
    """Compare the main graft with every other model on test, as a forest, with the numbers beneath."""
    run = page.run
    found = {"accuracy": _paired(run, "accuracy"), "ECE": _paired(run, "ece")}
    panels = {title: rows for title, rows in found.items() if rows}
    if not panels:
        return None
    rows = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = page.plots.add(
        f"{run.name}-differences",
        lambda path: plot_forest(panels, path, title=f"{run.name}: {run.main} minus …, on test", rows=rows),
        alt="Forest plot of paired differences on test; the numbers are in the table below.",
        caption=f"{READING} (with one seed: over examples).",
    )
    return section(None, "Who is ahead?", figure, _numbers(run))


def _paired(run: RunFolder, metric: str) -> dict[str, Paired]:
    found = {name: difference_of(run, name, metric) for name in rivals_of(run)}
    return {name: paired for name, paired in found.items() if paired}


def _numbers(run: RunFolder) -> Html | None:
    """The main graft minus every other model, paired by example, on every set."""
    pairs = [(name, difference_of(run, name, "accuracy") or difference_of(run, name, "ece")) for name in rivals_of(run)]
    others = [name for name, paired in pairs if paired]
    if not others:
        return None
    parts = []
    for metric, title in (("accuracy", "Accuracy: graft minus"), ("ece", "ECE: graft minus")):
        names = [name for name in sets_of(run) if any(difference_of(run, other, metric, name) for other in others)]
        rows = [
            [
                other,
                *(paired_cell(difference_of(run, other, metric, name)) for name in names),
                apart_cell(difference_of(run, other, metric)),
            ]
            for other in others
        ]
        head = [title, *names, "test: seeds apart"]
        parts.append(Table(head, rows).render(f"{run.name}: paired differences, {metric}"))
    return folded("The differences as numbers, on every set", *parts)
