"""The tables of a recipe about forgetting, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.recipes.forgetting.summary import Row, Seeds, Summary, Unit, Units
from graft.results.cells import MISSING, cell, fixed
from graft.results.tables import Block, TextTable
from graft.specs.forgetting import MEAN, ForgettingSpec

DECIMALS = {"points": 1, "nats": 3}
WORDS = {"points": "points of accuracy", "nats": "nats per token"}

FLIPS_EXPLAINED = (
    "Flips: per cent of a general task's test rows that were right before the domain was learned and are wrong now "
    "(lost), and the other way round (won). Independent: what the two accuracies would give if the answers now had "
    "nothing to do with those before."
)


def tabulate_run(recipe: ForgettingSpec, summary: Summary, seeds: Seeds, units: Units) -> list[Block]:
    """Return all tables: where the model starts, all domains at a glance, then each with all general tasks."""
    blocks: list[Block] = [_explain(recipe, seeds, units), _tabulate_start(seeds, units)]
    if MEAN in summary:
        blocks += ["gain / general change:", _tabulate_means(summary, units)]
    for domain in units.domains:
        blocks += [f"{domain}:", _tabulate_domain(summary[domain], domain, units)]
    counted = [(domain, task) for domain in units.domains for task in _with_flips(summary[domain], units)]
    if counted:
        blocks.append(FLIPS_EXPLAINED)
    for domain, task in counted:
        blocks += [f"{domain}, flips of {task}:", _tabulate_flips(summary[domain], task)]
    return blocks


def _explain(recipe: ForgettingSpec, seeds: Seeds, units: Units) -> str:
    start = "the base" if recipe.start is None else "the start (the base with a skill grafted on)"
    over = f"Mean ± 95 % t-interval over {len(seeds)} seeds" if len(seeds) > 1 else "One seed"
    lost = ", ".join(units.counted)
    return (
        f"Changes from {start} on test. {over}. Gain: on the domain; general: mean over {lost}, below 0 where "
        f"something was lost, in {WORDS[units.general]}. Against the first point: gain / general change less its own, "
        "seed by seed. Beaten by: a point, or doing nothing, that on the means of validation is at least as good on "
        "both, and better on one; a dash stands on the front. Seconds: of training and localizing; few where the "
        "training is another point's too."
    )


def _tabulate_start(seeds: Seeds, units: Units) -> TextTable:
    """Return the score of base and start on every task, mean over seeds."""
    tasks = [*units.domains, *units.counted, *units.others]
    names = [name for name in ("base", "start") if getattr(seeds[0], name) is not None]
    rows = []
    for name in names:
        means = [sum(getattr(seed, name)[task]["test"]["score"] for seed in seeds) / len(seeds) for task in tasks]
        rows.append([name, *map(fixed(3), means)])
    return TextTable(["model", *tasks], rows)


def _tabulate_means(summary: Summary, units: Units) -> TextTable:
    shown = [MEAN, *units.domains]
    head = ["method", *shown, f"mean, against {next(iter(summary[MEAN]))}", "beaten by (mean)"]
    rows = []
    for point, row in summary[MEAN].items():
        cells = [_pair(summary[domain][point], units.of_domain(domain), units.general) for domain in shown]
        cells.append(_against(row, summary[MEAN], units.of_domain(MEAN), units.general))
        rows.append([point, *cells, row["beaten_by"] or MISSING])
    return TextTable(head, rows)


def _tabulate_domain(rows: Mapping[str, Row], domain: str, units: Units) -> TextTable:
    tasks = [*units.counted, *units.others]
    unit = units.of_domain(domain)
    against = f"against {next(iter(rows))}"
    head = ["method", f"gain, {unit}", f"general, {units.general}", against, *tasks, "seconds", "beaten by"]
    lines = []
    for point, row in rows.items():
        metrics = row["figures"]
        cells = [_cell(metrics["gain"], unit), _cell(metrics["general"], units.general)]
        cells.append(_against(row, rows, unit, units.general))
        cells += [_cell(metrics[task], units.of_task(task)) for task in tasks]
        lines.append([point, *cells, f"{metrics['seconds']['mean']:.0f}", row["beaten_by"] or MISSING])
    return TextTable(head, lines)


def _with_flips(rows: Mapping[str, Row], units: Units) -> list[str]:
    """Return the general tasks whose flips were counted."""
    first = next(iter(rows.values()))["figures"]
    return [task for task in (*units.counted, *units.others) if f"{task} lost" in first]


def _tabulate_flips(rows: Mapping[str, Row], task: str) -> TextTable:
    keys = [f"{task} {key}" for key in ("lost", "lost, independent", "won", "won, independent")]
    lines = [[point, *(_share(row["figures"][key]) for key in keys)] for point, row in rows.items()]
    return TextTable(["method", *(key.removeprefix(f"{task} ") for key in keys)], lines)


def _share(estimate: Mapping[str, Any]) -> str:
    return cell(estimate["mean"], half=estimate["half"], show=fixed(1))


def _pair(row: Row, of_gain: Unit, of_general: Unit, suffix: str = "") -> str:
    gain, general = (row["figures"][f"{key}{suffix}"] for key in ("gain", "general"))
    return f"{_cell(gain, of_gain)} / {_cell(general, of_general)}"


def _against(row: Row, rows: Mapping[str, Row], of_gain: Unit, of_general: Unit) -> str:
    """Return gain and general change less the first point's; a dash for the first point itself."""
    return MISSING if row is next(iter(rows.values())) else _pair(row, of_gain, of_general, "_against")


def _cell(estimate: Mapping[str, Any], unit: Unit) -> str:
    """Return a change with its sign, and the half-width of its interval."""
    decimals = DECIMALS[unit]
    return cell(estimate["mean"], half=estimate["half"], show=fixed(decimals, "+"), show_error=fixed(decimals))
