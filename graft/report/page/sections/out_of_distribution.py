"""Accuracy and calibration on the sets that the model was not tuned for."""

from __future__ import annotations

from graft.report.estimates import estimate_of, models_of, sets_of
from graft.report.page.cells import cell, main_row
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table
from graft.report.page.run_page import RunPage


def build_section(page: RunPage) -> Html | None:
    """Tabulate accuracy and ECE of every model on every set."""
    run = page.run
    names = sets_of(run)
    if len(names) < 2:
        return None
    models = models_of(run)
    parts = []
    for metric, title in (("accuracy", "Accuracy"), ("ece", "ECE")):
        sizes = [estimate_of(run, run.main, "n", name) for name in names]
        head = [f"{name}, n = {n.mean:,.0f}" if n else name for name, n in zip(names, sizes, strict=True)]
        rows = [[name, *(cell(estimate_of(run, name, metric, of)) for of in names)] for name in models]
        table = Table([title, *head], rows, main_row(run, models))
        parts.append(table.render(f"{run.name}: {title} on every set"))
    return section(
        None,
        "Out of distribution",
        *parts,
        note(f"First the test split, then the sets the model was not tuned for; {interval_words(run)}."),
    )
