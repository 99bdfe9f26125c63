"""Gain and calibration against density, methods drawn in."""

from __future__ import annotations

from graft.evaluate.registry import METRICS
from graft.report.estimates import average
from graft.report.page.cells import cell
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table, folded
from graft.report.page.run_page import RunPage
from graft.report.plots.density_curves import Curves, list_curves
from graft.report.run_folder import RunFolder
from graft.results.areas import SIDES, areas_of, describe_range

_AREAS = (
    "Mean over the logarithm of the density {}: 0 is the base at every density, 1 the tuned model. Sufficiency: gain "
    "of the graft; necessity: gain lost without it. Test split."
)


def build_section(page: RunPage) -> Html | None:
    """Draw gain and ECE against density, methods drawn in."""
    run = page.run
    curves = list_curves(run)
    if not curves:
        return None
    text = note(f"Test split; {interval_words(run)}.")
    numbers = folded("The curves as numbers", _tabulate_curves(curves).render(f"{run.name}: curves"), text)
    areas = _tabulate_areas(run)
    shown = (
        []
        if areas is None
        else [areas.render(f"{run.name}: areas under the curves"), note(_AREAS.format(describe_range(run.seeds)))]
    )
    return section(None, "How much is enough?", *page.draw_plots("density_curves"), *shown, numbers)


def _tabulate_areas(run: RunFolder) -> Table | None:
    """Return a row per method with the areas under its curves; None where no curve has two densities."""
    areas = areas_of(run.seeds)
    shown = [metric for metric in SIDES if any(metric in row for row in areas.values())]
    rows = [
        [method, *(cell(average(row[metric]) if metric in row else None) for metric in shown)]
        for method, row in areas.items()
    ]
    return Table(["area under the curve", *(SIDES[metric] for metric in shown)], rows) if rows else None


def _tabulate_curves(curves: Curves) -> Table:
    shown = {name: METRICS[name].heading for name in ("accuracy", "ece", "nll")}
    shown = {"recovered_gain": "recovered gain", **shown}
    points = [(method, density, row) for method, line in curves.items() for density, row in line.items()]
    metrics = [metric for metric in shown if any(metric in row for _, _, row in points)]
    rows = [
        [f"{method}, {density:.4g}", f"{row['k'].mean:,.0f}", *(cell(row.get(metric)) for metric in metrics)]
        for method, density, row in points
    ]
    return Table(["method, density", "entries", *(shown[metric] for metric in metrics)], rows)
