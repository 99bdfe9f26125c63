"""The tables of several tasks, as a person reads them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.compose.task_overlap import TaskOverlap
from graft.recipes.multitask.summary import Seeds
from graft.results.cells import MISSING, decimal, mean_cell
from graft.results.tables import Block, TextTable
from graft.specs.multitask import BASE

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


def tabulate_run(
    summary: Summary,
    seeds: Seeds,
    overlap: TaskOverlap,
    agreement: Mapping[str, Mapping[str, float | None]],
) -> list[Block]:
    """Return all tables: every method, accuracy by task, and the regions' overlap."""
    rows_of = {name: f"{row['n']:.0f}" for name, row in seeds[0].methods[BASE].items()}
    counts = ", ".join(f"{name} {n}" for name, n in rows_of.items())
    over = f"Mean ± 95 % t-interval over {len(seeds)} seeds" if len(seeds) > 1 else "One seed"
    blocks: list[Block] = [
        f"Test rows (the first of each split): {counts}. {over}.",
        tabulate_methods(summary),
        "Accuracy by task:",
        tabulate_tasks(summary, list(rows_of)),
        "Regions, two tasks over all pairs of seeds (ceiling: one task over two seeds):",
        tabulate_overlap(overlap),
    ]
    for measure, agreed in agreement.items():
        if agreed["rho"] is not None and agreed["p"] is not None:
            blocks.append(
                f"Jaccard similarity of regions against similarity of {measure}: Spearman's rho "
                f"{decimal(agreed['rho'])}, permutation p {decimal(agreed['p'])}."
            )
    return blocks


def tabulate_methods(summary: Summary) -> TextTable:
    """Return a row per method; columns that no method has are left out."""
    shown = {key: title for key, title in COLUMNS.items() if any(key in row for row in summary.values())}
    rows = [[name, *(mean_cell(row.get(key)) for key in shown)] for name, row in summary.items()]
    return TextTable(["method", *shown.values()], rows)


def tabulate_tasks(summary: Summary, tasks: Sequence[str]) -> TextTable:
    """Return a row per method, a column per task."""
    rows = [[name, *(mean_cell(row[f"{task}.accuracy"]) for task in tasks)] for name, row in summary.items()]
    return TextTable(["method", *tasks], rows)


def tabulate_overlap(overlap: TaskOverlap) -> TextTable:
    """Return a row per pair of tasks, most alike first, then the ceilings."""
    rows = []
    m, jaccard = len(overlap.names), overlap.means["jaccard"]
    pairs = sorted(itertools.combinations(range(m), 2), key=lambda pair: -jaccard[pair])
    pairs += [(i, i) for i in range(m) if not np.isnan(jaccard[i, i])]
    for i, j in pairs:
        name = f"{overlap.names[i]}, {overlap.names[j]}" if i != j else f"{overlap.names[i]}, two seeds"
        metrics = {key: matrix[i, j] for key, matrix in overlap.means.items()}
        rows.append(
            [
                name,
                f"{metrics['jaccard']:.4f}",
                f"{metrics['intersection']:,.1f}",
                f"{metrics['share_of_b']:.2%}",
                f"{metrics['expected']:.2f}",
                f"{metrics['expected_by_tensor']:.2f}",
                MISSING if np.isnan(by_column := metrics["expected_by_column"]) else f"{by_column:,.1f}",
                _sampled(metrics),
            ]
        )
    nulls = ["by chance", "by tensor", "by column", "by row and column"]
    return TextTable(["regions", "Jaccard", "shared", "share", *nulls], rows)


def _sampled(metrics: Mapping[str, float]) -> str:
    """Format chance by row and column: its mean, and between which 95 % of the samples lie."""
    mean, low, high = (metrics[f"{key}_by_degrees"] for key in ("expected", "low", "high"))
    return MISSING if np.isnan(mean) else f"{mean:,.0f} [{low:,.0f}, {high:,.0f}]"
