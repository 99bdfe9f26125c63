"""Detection of data that are not the task's own."""

from __future__ import annotations

from graft.report.estimates import average
from graft.report.page.cells import cell, main_row
from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Part, Table
from graft.report.page.run_page import RunPage
from graft.report.run_folder import RunFolder

SCORES = {"msp": "maximum probability", "energy": "energy"}


def build_section(page: RunPage) -> Html | None:
    """Tabulate AUROC and FPR@95 of telling other data from the task's own."""
    run = page.run
    parts: list[Part] = []
    for name in run.seeds[0].detection:
        parts += _detection_table(run, name)
    if not parts:
        return None
    text = note(
        "Can the model's own confidence tell what is none of its business? AUROC: higher is better, .5 is chance. "
        "FPR@95: the share of foreign examples let in where 95 % of the task's own are; lower is better. "
        f"Test split; {interval_words(run) if len(run.seeds) > 1 else 'one seed, without intervals'}."
    )
    return section(None, "Out-of-distribution detection", *parts, text)


def _detection_table(run: RunFolder, name: str) -> list[Html]:
    seeds = [seed.detection.get(name, {}) for seed in run.seeds]
    models = [model for model in seeds[0] if all(model in seed for seed in seeds)]
    if not models:
        return []
    columns = {
        f"{score}.{metric}": f"{words}: {short}"
        for score, words in SCORES.items()
        for metric, short in (("auroc", "AUROC"), ("fpr95", "FPR@95"))
    }
    keys = [key for key in columns if all(key in seed[model] for seed in seeds for model in models)]
    rows = [[model, *(cell(average([seed[model][key] for seed in seeds])) for key in keys)] for model in models]
    first = seeds[0][models[0]]
    sizes = f", {first['n_in']:,.0f} own and {first['n_out']:,.0f} foreign" if {"n_in", "n_out"} <= set(first) else ""
    table = Table([f"{name}{sizes}", *(columns[key] for key in keys)], rows, main_row(run, models))
    return [table.render(f"{run.name}: detection of {name}")]
