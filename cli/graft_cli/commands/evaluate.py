"""graft evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graft.specs.runtime import Runtime
from graft_cli import options

COLUMNS = ("n", "accuracy", "f1", "nll", "brier", "ece", "ece_mass", "mce", "ece_floor")


@click.command("evaluate")
@click.argument("model")
@options.task
@click.option("--patch", "patches", multiple=True, metavar="PATCH", help="Graft this first; may be repeated.")
@click.option("--tuned", help="The tuned MODEL: adds agreement with it and the recovered gain.")
@click.option("--limit", type=click.IntRange(1), help="Only the first few examples of each set.")
@options.seed
@options.batch_size(64)
@options.runs_model
@options.as_json
@options.debug
def command(
    model: str,
    task_file: Path,
    patches: tuple[str, ...],
    tuned: str | None,
    limit: int | None,
    seed: int | None,
    batch_size: int,
    runtime: Runtime,
    as_json: bool,
) -> None:
    """Measure MODEL on a task's test split and out-of-distribution sets: accuracy, calibration, intervals.

    \b
    Example:
      graft evaluate embedded:all-MiniLM-L6-v2 --task recipes/starter/reviews/task.yaml --patch skill.safetensors
    """
    from graft.evaluate.comparison import evaluate_against
    from graft.hub.pull import pull_patch

    task = options.load_task(task_file, seed)
    loaded = tuple(pull_patch(patch) for patch in patches)
    report = evaluate_against(model, tuned, task, patches=loaded, limit=limit, batch_size=batch_size, runtime=runtime)
    result = report.to_json()
    options.show(result, as_json, _lines(result))


def _lines(result: dict[str, Any]) -> list[str]:
    sets = {"test": result, **result.get("ood", {})}
    columns = [*COLUMNS, *(key for key in ("agreement", "recovered_gain") if key in result)]
    rows = {name: [_cell(figures, column) for column in columns] for name, figures in sets.items() if figures["n"]}
    lines = _table(columns, rows)
    found = {name: figures["detection"] for name, figures in sets.items() if "detection" in figures}
    return [*lines, *_detection_lines(found), "brackets: 95 % basic bootstrap interval over examples"]


def _detection_lines(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    keys = [(score, figure) for score in ("msp", "energy") for figure in ("auroc", "fpr95")]
    rows = {of: [f"{item['n_out']:,}", *(_cell(item[score], key) for score, key in keys)] for of, item in found.items()}
    return ["novel classes told from the task's:", *_table(["n", *(" ".join(key) for key in keys)], rows)]


def _table(columns: list[str], rows: dict[str, list[str]]) -> list[str]:
    width = max(map(len, rows))
    lines = [name.ljust(width) + "".join(f" {cell:>16}" for cell in cells) for name, cells in rows.items()]
    return [" " * width + "".join(f" {column:>16}" for column in columns), *lines]


def _cell(figures: dict[str, Any], column: str) -> str:
    value = figures.get(column)
    if value is None or column == "n":
        return "–" if value is None else f"{value:,}"
    ends = [f"{end:.2f}".removeprefix("0") for end in figures["ci"].get(column, ())]
    return f"{value:.3f}" + (f"[{','.join(ends)}]" if ends else "")
