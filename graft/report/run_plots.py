"""The sections of a run that are plots: calibration, differences, curves over density, layers."""

from __future__ import annotations

import numpy as np

from graft.patch.skill_patch import Patch
from graft.report.curves import Curves, plot_curves
from graft.report.estimates import Paired, controls_of, curve_of, decimal, difference_of, figure_of, gain_of, rivals_of
from graft.report.forest import plot_forest
from graft.report.layer_map import count_entries, plot_layer_map
from graft.report.markup import Html, Table, folded
from graft.report.page import note, section
from graft.report.plot_book import PlotBook
from graft.report.reliability import plot_reliability, pool_bins
from graft.report.run_folder import RunFolder
from graft.report.run_tables import differences_table, interval_words
from graft.report.wording import cell

FOREST = (
    "Small: each seed with its paired bootstrap interval over the test examples. Large: the mean over seeds and its "
    "95 % interval, hollow where it holds 0, which is a tie"
)


def reliability_section(run: RunFolder, book: PlotBook) -> Html | None:
    """Reliability diagrams side by side: base, tuned, the graft, and the controls."""
    wanted = ["base", "tuned", run.main, *controls_of(run)]
    names = [name for name in wanted if _same_edges(run, name)]
    if not names:
        return None
    pooled = {name: pool_bins([seed.bins[name] for seed in run.seeds]) for name in names}
    over = f"{len(run.seeds)} seeds pooled" if len(run.seeds) > 1 else "1 seed"
    errors = {name: error.mean for name in names if (error := figure_of(run, name, "ece"))}
    figure = book.figure(
        f"{run.name}-reliability",
        lambda path: plot_reliability(pooled, path, title=f"{run.name}: reliability on test, {over}", errors=errors),
        alt="Reliability diagrams on test. " + "; ".join(f"{name}: ECE {decimal(x)}" for name, x in errors.items()),
        caption="How often a model is right (bars) against how sure it is; the dashed diagonal is perfect calibration, "
        f"below it a model is too sure. Test split, {over}; the ECE is the mean over seeds, as in the table.",
    )
    return section(None, "Does it know what it knows?", figure)


def _same_edges(run: RunFolder, name: str) -> bool:
    """Whether all seeds have bins of a model that can be pooled."""
    found = [seed.bins[name].edges for seed in run.seeds if name in seed.bins]
    return len(found) == len(run.seeds) and all(np.array_equal(found[0], edges) for edges in found)


def differences_section(run: RunFolder, book: PlotBook) -> Html | None:
    """The main graft minus every other model on test, as a forest, with the numbers beneath."""
    found = {"accuracy": _paired(run, "accuracy"), "ECE": _paired(run, "ece")}
    panels = {title: rows for title, rows in found.items() if rows}
    if not panels:
        return None
    rows = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = book.figure(
        f"{run.name}-differences",
        lambda path: plot_forest(panels, path, title=f"{run.name}: {run.main} minus …, on test", rows=rows),
        alt="Forest plot of paired differences on test; the numbers are in the table below.",
        caption=f"{FOREST} (with one seed: over examples).",
    )
    return section(None, "Who is ahead?", figure, differences_table(run))


def _paired(run: RunFolder, metric: str) -> dict[str, Paired]:
    found = {name: difference_of(run, name, metric) for name in rivals_of(run)}
    return {name: paired for name, paired in found.items() if paired}


def curves_section(run: RunFolder, book: PlotBook) -> Html | None:
    """Gain and ECE against density, methods drawn in."""
    table = {method: points for method, points in curve_of(run).items() if points}
    if not table:
        return None
    table = {method: table[method] for method in sorted(table, key=lambda method: method != run.method)}
    levels = _levels(run)
    share = run.seeds[0].k / _n_parameters(table)
    figure = book.figure(
        f"{run.name}-curves",
        lambda path: plot_curves(table, path, title=f"{run.name}: how much is enough?", levels=levels, at=share),
        alt="Recovered gain and ECE on test against density; the numbers are in the table below.",
        caption="Lines: mean over seeds; small dots: seeds. Dashed: base and tuned model. Dotted: the patch of this "
        "run. Test split, logarithmic axis.",
    )
    text = note(f"Test split; {interval_words(run)}.")
    numbers = folded("The curves as numbers", _curve_numbers(table).render(f"{run.name}: curves"), text)
    return section(None, "How much is enough?", figure, numbers)


def _curve_numbers(table: Curves) -> Table:
    shown = {"recovered_gain": "recovered gain", "accuracy": "accuracy", "ece": "ECE", "nll": "NLL, nats"}
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
    errors = {name: figure_of(run, name, "ece") for name in ("base", "tuned")}
    return heights | {"ece": {name: error.mean for name, error in errors.items() if error}}


def _n_parameters(table: Curves) -> float:
    """From the point with the most entries, where rounding k to a whole number matters least."""
    k, density = max((row["k"].mean, density) for points in table.values() for density, row in points.items())
    return k / density


def layers_section(run: RunFolder, book: PlotBook, patch: Patch | None) -> Html | None:
    """Where the entries of the first seed's patch lie."""
    if patch is None:
        return None
    seed, mask = run.seeds[0].seed, patch.mask
    of = f", the first of {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    layers, modules, counts = count_entries(mask)
    i, j = divmod(int(counts.argmax()), counts.shape[1])
    title = f"{run.name}: where the {len(mask):,} entries lie ({run.method}, seed {seed})"
    figure = book.figure(
        f"{run.name}-layers",
        lambda path: plot_layer_map(mask, path, title=title),
        alt=f"Map of layers by modules. The most entries, {counts[i, j]:,}, lie in {layers[i]}, {modules[j]}.",
        caption=f"Entries of the patch in each layer and module (weight and bias together), seed {seed}{of}; "
        "darker is more, on a logarithmic scale.",
    )
    return section(None, "Where does it live?", figure)
