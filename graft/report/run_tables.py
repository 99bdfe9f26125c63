"""The sections of a run that are tables: main, out of distribution, differences, detection, diagnosis, recipe."""

from __future__ import annotations

from graft.report.estimates import (
    average,
    decimal,
    difference_of,
    figure_of,
    gain_of,
    models_of,
    rivals_of,
    sets_of,
)
from graft.report.markup import Html, Piece, Table, bullets, element, folded
from graft.report.page import note, section
from graft.report.run_folder import RunFolder
from graft.report.wording import apart_cell, cell, paired_cell

COLUMNS = {
    "accuracy": "accuracy",
    "f1": "macro F1",
    "recovered_gain": "recovered gain",
    "ece": "ECE",
    "ece_debiased": "debiased ECE",
    "nll": "NLL, nats",
    "brier": "Brier, 0–2",
}
SCORES = {"msp": "maximum probability", "energy": "energy"}


def main_table(run: RunFolder) -> Html:
    """Every model on test."""
    models = models_of(run)
    metrics = [key for key in COLUMNS if key == "recovered_gain" or any(figure_of(run, name, key) for name in models)]
    rows = [[name, *(_main_cell(run, name, metric) for metric in metrics)] for name in models]
    table = Table(["model", *(COLUMNS[metric] for metric in metrics)], rows, _strong(run, models))
    return section(None, "Base, tuned, grafts", table.render(f"{run.name}: all models on test"), note(_main_note(run)))


def _main_cell(run: RunFolder, model: str, metric: str) -> Piece:
    if metric == "recovered_gain":
        return {"base": "0", "tuned": "1"}.get(model) or cell(gain_of(run, model))
    return cell(figure_of(run, model, metric))


def _main_note(run: RunFolder) -> str:
    n, floor = figure_of(run, run.main, "n"), figure_of(run, run.main, "ece_floor")
    parts = [f"Test split{f', n = {n.mean:,.0f} examples' if n else ''}; {interval_words(run)}."]
    if floor:
        parts.append(f"At this n a perfectly calibrated model would show an ECE of about {decimal(floor.mean)}.")
    return " ".join(parts)


def interval_words(run: RunFolder) -> str:
    """What an interval of this run is."""
    n = len(run.seeds)
    if n > 1:
        return f"mean over {n} seeds ± 95 % t-interval"
    return "one seed; in brackets the 95 % bootstrap interval over examples"


def ood_section(run: RunFolder) -> Html | None:
    """Accuracy and ECE of every model on every set."""
    names = sets_of(run)
    if len(names) < 2:
        return None
    models = models_of(run)
    parts = []
    for metric, title in (("accuracy", "Accuracy"), ("ece", "ECE")):
        sizes = [figure_of(run, run.main, "n", name) for name in names]
        head = [f"{name}, n = {n.mean:,.0f}" if n else name for name, n in zip(names, sizes, strict=True)]
        rows = [[name, *(cell(figure_of(run, name, metric, of)) for of in names)] for name in models]
        table = Table([title, *head], rows, _strong(run, models))
        parts.append(table.render(f"{run.name}: {title} on every set"))
    return section(
        None,
        "Out of distribution",
        *parts,
        note(f"First the test split, then the sets the model was not tuned for; {interval_words(run)}."),
    )


def differences_table(run: RunFolder) -> Html | None:
    """The main graft minus every other model, paired by example, on every set."""
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


def detection_section(run: RunFolder) -> Html | None:
    """AUROC and FPR@95 of telling other data from the task's own."""
    parts: list[Piece] = []
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
    table = Table([f"{name}{sizes}", *(columns[key] for key in keys)], rows, _strong(run, models))
    return [table.render(f"{run.name}: detection of {name}")]


def diagnosis_section(run: RunFolder) -> Html | None:
    """What was to be expected of the checkpoint before any data were touched."""
    said: dict[tuple[str, ...], list[int]] = {}
    for seed in run.seeds:
        if seed.diagnosis and seed.diagnosis.text:
            said.setdefault(seed.diagnosis.text, []).append(seed.seed)
    if not said:
        return None
    parts: list[Piece] = []
    for sentences, seeds in said.items():
        if len(said) > 1:
            parts.append(element("p", element("b", f"Seed {', '.join(map(str, seeds))}")))
        parts.append(bullets(sentences))
    numbers = [seed.diagnosis.numbers if seed.diagnosis else {} for seed in run.seeds]
    keys = [key for key in numbers[0] if all(key in row for row in numbers)]
    rows = [[key.replace("_", " "), *(f"{row[key]:,.4g}" for row in numbers)] for key in keys]
    if rows:
        head = ["number", *(f"seed {seed.seed}" for seed in run.seeds)]
        parts.append(folded("The numbers behind it", Table(head, rows).render(f"{run.name}: numbers of the diagnosis")))
    return section(None, "Does this checkpoint localise?", *parts)


def recipe_section(run: RunFolder) -> Html:
    """How the run was made, and what it missed."""
    rows: list[list[Piece]] = [[key, value] for key, value in run.settings.items()]
    seconds = [sum(seed.seconds.values()) for seed in run.seeds if seed.seconds]
    if seconds:
        rows.append(["minutes a seed, measured", f"{sum(seconds) / len(seconds) / 60:.1f}"])
    rows.append(["entries of the main patch", ", ".join(dict.fromkeys(f"{seed.k:,}" for seed in run.seeds))])
    missed = [element("p", "Not as expected:"), bullets(run.missed)] if run.missed else []
    return element(
        "div",
        *missed,
        folded("How it was made", Table(["key", "value"], rows, words=True).render(f"{run.name}: recipe")),
    )


def _strong(run: RunFolder, models: list[str]) -> frozenset[int]:
    return frozenset({models.index(run.main)} if run.main in models else ())
