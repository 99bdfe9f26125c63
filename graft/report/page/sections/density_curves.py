"""Gain and calibration against density, methods drawn in."""

from __future__ import annotations

from graft.evaluate.registry import METRICS
from graft.report.estimates import curve_of, estimate_of, gain_of
from graft.report.page.cells import cell
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table, folded
from graft.report.page.run_page import RunPage
from graft.report.plots.density_curves import Curves, plot_density_curves
from graft.report.run_folder import RunFolder


def build_section(page: RunPage) -> Html | None:
    """Draw gain and ECE against density, methods drawn in."""
    run = page.run
    table = {method: points for method, points in curve_of(run).items() if points}
    if not table:
        return None
    table = {method: table[method] for method in sorted(table, key=lambda method: method != run.method)}
    title, levels = f"{run.name}: how much is enough?", _levels(run)
    share = run.seeds[0].k / _n_parameters(table)
    figure = page.plots.add(
        f"{run.name}-curves",
        lambda path: plot_density_curves(table, path, title=title, levels=levels, at=share),
        alt="Recovered gain and ECE on test against density; the numbers are in the table below.",
        caption="Lines: mean over seeds; small dots: seeds. Dashed: base and tuned model. Dotted: the patch of this "
        "run. Test split, logarithmic axis.",
    )
    text = note(f"Test split; {interval_words(run)}.")
    numbers = folded("The curves as numbers", _curve_numbers(table).render(f"{run.name}: curves"), text)
    return section(None, "How much is enough?", figure, numbers)


def _curve_numbers(table: Curves) -> Table:
    shown = {name: METRICS[name].heading for name in ("accuracy", "ece", "nll")}
    shown = {"recovered_gain": "recovered gain", **shown}
    points = [(method, density, row) for method, line in table.items() for density, row in line.items()]
    metrics = [metric for metric in shown if any(metric in row for _, _, row in points)]
    rows = [
        [f"{method}, {density:.4g}", f"{row['k'].mean:,.0f}", *(cell(row.get(metric)) for metric in metrics)]
        for method, density, row in points
    ]
    return Table(["method, density", "entries", *(shown[metric] for metric in metrics)], rows)


def _levels(run: RunFolder) -> dict[str, dict[str, float]]:
    """Heights drawn across the curves."""
    heights: dict[str, dict[str, float]] = {}
    if gain_of(run, "tuned"):
        heights["recovered_gain"] = {"base": 0.0, "tuned": 1.0}
    errors = {name: estimate_of(run, name, "ece") for name in ("base", "tuned")}
    return heights | {"ece": {name: error.mean for name, error in errors.items() if error}}


def _n_parameters(table: Curves) -> float:
    """From the point with the most entries, where rounding k to a whole number matters least."""
    k, density = max((row["k"].mean, density) for points in table.values() for density, row in points.items())
    return k / density
