"""Every model on the test split."""

from __future__ import annotations

from graft.evaluate.registry import metrics_shown
from graft.report.estimates import decimal, estimate_of, gain_of, models_of
from graft.report.page.cells import cell, main_row
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Part, Table
from graft.report.page.run_page import RunPage
from graft.report.run_folder import RunFolder


def build_section(page: RunPage) -> Html:
    """Tabulate every model on test."""
    run = page.run
    models = models_of(run)
    shown = metrics_shown("page")
    columns = {name: entry.heading for name, entry in shown.items() if not entry.needs_probabilities}
    columns |= {"recovered_gain": "recovered gain"}
    columns |= {name: entry.heading for name, entry in shown.items() if entry.needs_probabilities}
    metrics = [key for key in columns if key == "recovered_gain" or any(estimate_of(run, name, key) for name in models)]
    rows = [[name, *(_main_cell(run, name, metric) for metric in metrics)] for name in models]
    table = Table(["model", *(columns[metric] for metric in metrics)], rows, main_row(run, models))
    return section(None, "Base, tuned, grafts", table.render(f"{run.name}: all models on test"), note(_main_note(run)))


def _main_cell(run: RunFolder, model: str, metric: str) -> Part:
    if metric == "recovered_gain":
        gain = gain_of(run, model)  # where tuning gained nothing there is none, of base and tuned neither
        return cell(gain) if gain is None else {"base": "0", "tuned": "1"}.get(model) or cell(gain)
    return cell(estimate_of(run, model, metric))


def _main_note(run: RunFolder) -> str:
    n, floor = estimate_of(run, run.main, "n"), estimate_of(run, run.main, "ece_floor")
    parts = [f"Test split{f', n = {n.mean:,.0f} examples' if n else ''}; {interval_words(run)}."]
    if floor:
        parts.append(f"At this n a perfectly calibrated model would show an ECE of about {decimal(floor.mean)}.")
    return " ".join(parts)
