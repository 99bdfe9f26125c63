"""Sufficiency and necessity of each method's region."""

from __future__ import annotations

from graft.report.estimates import Estimate, average, decimal, estimate_of, gain_of, methods_of
from graft.report.page.cells import cell
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table
from graft.report.page.run_page import RunPage
from graft.report.plots.sufficiency_necessity import plot_sufficiency_necessity
from graft.report.run_folder import RunFolder
from graft.results.models import Role

_SIDES: tuple[Role, Role] = ("graft", "without")


def build_section(page: RunPage) -> Html | None:
    """Show sufficiency and necessity of each method's region."""
    run = page.run
    regions = {method: shares for method in methods_of(run) if (shares := _both_shares(run, method))}
    if not regions:
        return None
    title = f"{run.name}: is the region enough, and is it needed?"
    figure = page.plots.add(
        f"{run.name}-sufficiency-necessity",
        lambda path: plot_sufficiency_necessity(regions, path, title=title),
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
            *(cell(estimate_of(run, run.find_model(role, method), "accuracy")) for role in _SIDES),
        ]
        for method, (brings, takes) in regions.items()
    ]
    head = ["region by", "sufficiency", "necessity", "accuracy, base with it", "accuracy, tuned without it"]
    table = Table(head, rows, frozenset({0})).render(f"{run.name}: sufficiency and necessity")
    return section(None, "Enough, and needed?", figure, table, note(f"Test split; {interval_words(run)}."))


def _both_shares(run: RunFolder, method: str) -> tuple[Estimate, Estimate] | None:
    """Sufficiency: the recovered gain; necessity: (tuned - without) / (tuned - base), one less the gain without."""
    brings, left = (gain_of(run, run.find_model(role, method)) for role in _SIDES)
    if brings is None or left is None:
        return None
    return brings, average([1 - gain for gain in left.values])
