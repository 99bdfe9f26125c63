"""Figures of a suite over its seeds, and as tables that a person reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.compose.task_overlap import TaskOverlap
from graft.evaluate.continual_metrics import follow_stages
from graft.evaluate.mantel import Matrix, mantel_test
from graft.evaluate.t_interval import mean_interval, short_decimal
from graft.recipes.suite.spec import BASE, SuiteSpec
from graft.recipes.summary import format_cell, format_rows

Seeds = Sequence[Mapping[str, Any]]
Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]
COLUMNS = {
    "accuracy": "mean accuracy",
    "gain_kept": "gain kept",
    "ece": "mean ECE",
    "forgetting": "forgetting",
    "transfer": "backward transfer",
    "validation_accuracy": "validation",
    "scale": "scale",
}


def summarise_suite(seeds: Seeds) -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> figure -> mean, half-width of the 95 % t-interval over seeds, and values.

    Figures: "accuracy", "ece" and "nll", means over tasks; "gain_kept", the mean accuracy gained over the base as a
    share of that of the models tuned on one task each; "forgetting" and "transfer" of sequences; "TASK.accuracy" and
    so on; "scale" and "validation_accuracy" where something was chosen.
    """
    rows = [{name: _figures(seed, name) for name in seed["methods"]} for seed in seeds]
    return {name: {key: mean_interval([row[name][key] for row in rows]) for key in rows[0][name]} for name in rows[0]}


def _figures(seed: Mapping[str, Any], name: str) -> dict[str, float]:
    methods = seed["methods"]
    figures = _over_tasks(methods[name])
    base, tuned = (_over_tasks(methods[other])["accuracy"] for other in (BASE, "tuned"))
    if name != BASE and tuned != base:
        figures["gain_kept"] = (figures["accuracy"] - base) / (tuned - base)
    if name in seed["stages"]:
        last = follow_stages(seed["stages"][name])[-1]
        figures |= {"forgetting": last.forgetting, "transfer": last.transfer}
    found = seed["found"].get(name, {})
    figures |= {key: found[key] for key in ("validation_accuracy", "scale") if found.get(key) is not None}
    return figures | {f"{task}.{key}": row[key] for task, row in methods[name].items() for key in ("accuracy", "ece")}


def _over_tasks(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in figures.values()])) for key in ("accuracy", "ece", "nll")}


def mean_matrix(seeds: Seeds, key: str) -> tuple[list[str], Matrix]:
    """Accuracy gained over the base, mean over seeds: row a graft's task, column a task."""
    names = list(seeds[0][key])
    gains = [
        [[seed[key][of][on] - seed["methods"][BASE][on]["accuracy"] for on in names] for of in names] for seed in seeds
    ]
    return names, np.mean(gains, axis=0)


def agree(overlap: TaskOverlap, seeds: Seeds) -> dict[str, dict[str, float | None]]:
    """Measure of kinship -> Spearman's rho of the regions' Jaccard similarity with it, and its permutation p."""
    if len(overlap.names) < 3:
        return {}
    result: dict[str, dict[str, float | None]] = {}
    for measure in seeds[0]["kinship"]:
        mean = np.mean([seed["kinship"][measure] for seed in seeds], axis=0)
        rho, p = mantel_test(overlap.means["jaccard"], mean)
        result[measure] = {"rho": None, "p": None} if np.isnan(rho) else {"rho": rho, "p": p}
    return result


def format_suite(
    suite: SuiteSpec,
    summary: Summary,
    seeds: Seeds,
    overlap: TaskOverlap,
    agreement: Mapping[str, Mapping[str, float | None]],
) -> str:
    """All tables as Markdown."""
    rows_of = {name: f"{row['n']:.0f}" for name, row in seeds[0]["methods"][BASE].items()}
    counts = ", ".join(f"{name} {n}" for name, n in rows_of.items())
    parts = [
        f"Test rows (the first of each split): {counts}. Mean ± 95 % t-interval over {len(seeds)} seeds.",
        format_methods(summary),
        "Accuracy by task:",
        format_tasks(summary, list(rows_of)),
        "Regions, two tasks over all pairs of seeds (ceiling: one task over two seeds):",
        format_overlap(overlap),
    ]
    for measure, found in agreement.items():
        if found["rho"] is not None and found["p"] is not None:
            parts.append(
                f"Jaccard similarity of regions against similarity of {measure}: Spearman's rho "
                f"{short_decimal(found['rho'])}, permutation p {short_decimal(found['p'])}."
            )
    return "\n\n".join(parts)


def format_methods(summary: Summary) -> str:
    """A row per method; columns that no method has are left out."""
    shown = {key: title for key, title in COLUMNS.items() if any(key in row for row in summary.values())}
    rows = [["method", *shown.values()]]
    rows += [[name, *(format_cell(row.get(key)) for key in shown)] for name, row in summary.items()]
    return format_rows(rows)


def format_tasks(summary: Summary, tasks: Sequence[str]) -> str:
    """A row per method, a column per task."""
    rows = [["method", *tasks]]
    rows += [[name, *(format_cell(row[f"{task}.accuracy"]) for task in tasks)] for name, row in summary.items()]
    return format_rows(rows)


def format_overlap(overlap: TaskOverlap) -> str:
    """A row per pair of tasks, most alike first, then the ceilings."""
    rows = [["regions", "Jaccard", "shared", "share", "by chance", "by chance, tensor by tensor"]]
    m, jaccard = len(overlap.names), overlap.means["jaccard"]
    pairs = sorted(itertools.combinations(range(m), 2), key=lambda place: -jaccard[place])
    pairs += [(i, i) for i in range(m) if not np.isnan(jaccard[i, i])]
    for i, j in pairs:
        name = f"{overlap.names[i]}, {overlap.names[j]}" if i != j else f"{overlap.names[i]}, two seeds"
        figures = {key: matrix[i, j] for key, matrix in overlap.means.items()}
        rows.append(
            [
                name,
                f"{figures['jaccard']:.4f}",
                f"{figures['intersection']:,.1f}",
                f"{figures['share_of_b']:.2%}",
                f"{figures['expected']:.2f}",
                f"{figures['expected_by_tensor']:.2f}",
            ]
        )
    return format_rows(rows)
