"""Simpler ways to the graft's accuracy, and their calibration: did the graft merely move less?"""

from __future__ import annotations

from graft.report.estimates import average, controls_of, difference_of, estimate_of
from graft.report.page.cells import cell, paired_cell
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table
from graft.report.page.run_page import RunPage
from graft.report.run_folder import RunFolder
from graft.results.cells import MISSING

UNITS = {"alpha": "α"}


def build_section(page: RunPage) -> Html | None:
    """Show simpler ways to the same accuracy, and their calibration."""
    run = page.run
    names = controls_of(run)
    if not names:
        return None
    head = [
        "model",
        "set to (on validation)",
        "validation accuracy",
        "test accuracy",
        "test ECE",
        "test NLL",
        "ECE: graft minus it",
    ]
    rows = [_control_row(run, name) for name in (run.main, *names)]
    table = Table(head, rows, frozenset({0})).render(f"{run.name}: controls")
    text = note(
        "Controls are set on validation to the graft's accuracy; temperature scaling keeps the tuned model's. "
        f"Test figures: {interval_words(run)}."
    )
    return section(None, "Did it merely move less?", *page.draw_plots("controls"), table, text)


def _control_row(run: RunFolder, name: str) -> list[Html | str | None]:
    set_to = [seed.controls[name] for seed in run.seeds if name in seed.controls]
    chosen = ", ".join(f"{control.value:.3g}" for control in set_to)
    unit = UNITS.get(set_to[0].setting, set_to[0].setting) if set_to else ""
    accuracies = [control.validation_accuracy for control in set_to if control.validation_accuracy is not None]
    validation = average(accuracies) if accuracies and len(accuracies) == len(run.seeds) else None
    figures = (cell(estimate_of(run, name, metric)) for metric in ("accuracy", "ece", "nll"))
    return [
        name,
        f"{unit} {chosen}".strip() or MISSING,
        cell(validation),
        *figures,
        paired_cell(difference_of(run, name, "ece")),
    ]
