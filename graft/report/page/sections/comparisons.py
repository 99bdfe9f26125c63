"""The main graft minus every other model: a forest, and the numbers beneath."""

from __future__ import annotations

from graft.report.estimates import difference_of, rivals_of, sets_of
from graft.report.page.cells import apart_cell, paired_cell
from graft.report.page.document import section
from graft.report.page.markup import Html, Table, folded
from graft.report.page.run_page import RunPage
from graft.report.run_folder import RunFolder


def build_section(page: RunPage) -> Html | None:
    """Compare the main graft with every other model on test, as a forest, with the numbers beneath."""
    figures = page.draw_plots("comparisons")
    return section(None, "Who is ahead?", *figures, _tabulate_differences(page.run)) if figures else None


def _tabulate_differences(run: RunFolder) -> Html | None:
    """Return the main graft minus every other model, paired by example, on every set."""
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
