"""The sections of a run that ask for simpler explanations: both sides of a region, and controls."""

from __future__ import annotations

from graft.report.estimates import (
    Estimate,
    average,
    controls_of,
    decimal,
    difference_of,
    figure_of,
    gain_of,
    methods_of,
)
from graft.report.markup import Html, Table
from graft.report.page import note, section
from graft.report.plot_book import PlotBook
from graft.report.run_folder import RunFolder
from graft.report.run_tables import interval_words
from graft.report.trade_off import plot_trade_off
from graft.report.two_sides import plot_two_sides
from graft.report.wording import cell, paired_cell
from graft.results.cells import MISSING
from graft.results.models import Role

UNITS = {"alpha": "α"}
_SIDES: tuple[Role, Role] = ("graft", "without")


def two_sides_section(run: RunFolder, book: PlotBook) -> Html | None:
    """Sufficiency and necessity of each method's region."""
    regions = {method: sides for method in methods_of(run) if (sides := _two_sides(run, method))}
    if not regions:
        return None
    figure = book.figure(
        f"{run.name}-two-sides",
        lambda path: plot_two_sides(regions, path, title=f"{run.name}: is the region enough, and is it needed?"),
        alt="; ".join(
            f"{method}: sufficiency {decimal(a.mean)}, necessity {decimal(b.mean)}"
            for method, (a, b) in regions.items()
        ),
        caption="Filled: the share of the gain that the region alone brings to the base. Hollow: the share that the "
        "tuned model loses when the region is put back to the base's values. 1 is all of it, 0 nothing.",
    )
    rows = [
        [
            method,
            cell(brings),
            cell(takes),
            *(cell(figure_of(run, run.find_model(role, method), "accuracy")) for role in _SIDES),
        ]
        for method, (brings, takes) in regions.items()
    ]
    head = ["region by", "sufficiency", "necessity", "accuracy, base with it", "accuracy, tuned without it"]
    table = Table(head, rows, frozenset({0})).render(f"{run.name}: sufficiency and necessity")
    return section(None, "Enough, and needed?", figure, table, note(f"Test split; {interval_words(run)}."))


def _two_sides(run: RunFolder, method: str) -> tuple[Estimate, Estimate] | None:
    """Sufficiency: the recovered gain; necessity: (tuned - without) / (tuned - base), one less the gain without."""
    brings, left = (gain_of(run, run.find_model(role, method)) for role in _SIDES)
    if brings is None or left is None:
        return None
    return brings, average([1 - gain for gain in left.values])


def controls_section(run: RunFolder, book: PlotBook) -> Html | None:
    """Did it merely move less? Simpler ways to the same accuracy, and their calibration."""
    names = controls_of(run)
    if not names:
        return None
    points = {name: pair for name in ("base", "tuned", run.main, *names) if (pair := _point(run, name))}
    floor = figure_of(run, run.main, "ece_floor")
    figure = book.figure(
        f"{run.name}-controls",
        lambda path: plot_trade_off(
            points, path, title=f"{run.name}: did it merely move less?", floor=floor.mean if floor else None
        ),
        alt="; ".join(f"{name}: accuracy {a.mean:.3f}, ECE {b.mean:.3f}" for name, (a, b) in points.items()),
        caption="Each control reaches its accuracy in a simpler way than the graft does. A control down and to the "
        "right of the graft would explain the graft away.",
    )
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
    return section(None, "Did it merely move less?", figure, table, text)


def _point(run: RunFolder, name: str) -> tuple[Estimate, Estimate] | None:
    accuracy, ece = figure_of(run, name, "accuracy"), figure_of(run, name, "ece")
    return (accuracy, ece) if accuracy and ece else None


def _control_row(run: RunFolder, name: str) -> list[Html | str | None]:
    set_to = [seed.controls[name] for seed in run.seeds if name in seed.controls]
    chosen = ", ".join(f"{control.value:.3g}" for control in set_to)
    unit = UNITS.get(set_to[0].setting, set_to[0].setting) if set_to else ""
    accuracies = [control.validation_accuracy for control in set_to if control.validation_accuracy is not None]
    validation = average(accuracies) if accuracies and len(accuracies) == len(run.seeds) else None
    figures = (cell(figure_of(run, name, metric)) for metric in ("accuracy", "ece", "nll"))
    return [
        name,
        f"{unit} {chosen}".strip() or MISSING,
        cell(validation),
        *figures,
        paired_cell(difference_of(run, name, "ece")),
    ]
