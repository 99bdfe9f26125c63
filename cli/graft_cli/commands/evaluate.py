"""The command `graft evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graft.evaluate.registry import METRICS, metrics_shown
from graft.specs.runtime import Runtime
from graft_cli import options


@click.command("evaluate", cls=options.RegistryCommand, registry=METRICS)
@click.argument("model")
@options.task
@click.option(
    "--patch", "patches", multiple=True, metavar="PATCH", help="Graft this patch onto MODEL first; may be repeated."
)
@click.option("--tuned", metavar="MODEL", help="The fine-tuned model: adds agreement with it and the recovered gain.")
@click.option(
    "--base",
    "adapter_base",
    metavar="MODEL",
    help="The base of an adapter, where it is not to be found under the name that the adapter's config gives it.",
)
@click.option("--limit", type=click.IntRange(1), help="Only this many examples of each set, the first ones.")
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
    adapter_base: str | None,
    limit: int | None,
    seed: int | None,
    batch_size: int,
    runtime: Runtime,
    as_json: bool,
) -> None:
    """Measure MODEL on a task's test split and out-of-distribution sets: accuracy, calibration, intervals.

    MODEL, and --tuned, may also be a PEFT adapter, a folder or Hub id: it is measured merged into its base.

    \b
    Example:
      graft evaluate embedded:all-MiniLM-L6-v2 --task recipes/starter/reviews/task.yaml --patch skill.safetensors
    """
    from graft.evaluate.comparison import evaluate_against
    from graft.hub.pull import pull_patch

    task = options.load_task(task_file, seed)
    loaded = tuple(pull_patch(patch) for patch in patches)
    report = evaluate_against(
        model,
        tuned,
        task,
        patches=loaded,
        adapter_base=adapter_base,
        limit=limit,
        batch_size=batch_size,
        runtime=runtime,
    )
    result = report.to_json()
    options.show(result, as_json, _lines(result))


def _lines(result: dict[str, Any]) -> list[str]:
    sets = {"test": result, **result.get("ood", {})}
    columns = ["n", *metrics_shown("command"), "ece_floor"]
    columns += ["unanswered", "agreement", "recovered_gain", "n_cut"]
    columns = [column for column in columns if any(column in metrics for metrics in sets.values())]
    rows = {name: [_cell(metrics, column) for column in columns] for name, metrics in sets.items() if metrics["n"]}
    lines = _table(columns, rows)
    detections = {name: metrics["detection"] for name, metrics in sets.items() if "detection" in metrics}
    return [*lines, *_detection_lines(detections), "brackets: 95 % basic bootstrap interval over examples"]


def _detection_lines(detections: dict[str, Any]) -> list[str]:
    if not detections:
        return []
    keys = [(score, metric) for score in ("msp", "energy") for metric in ("auroc", "fpr95")]
    rows = {
        name: [f"{item['n_out']:,}", *(_cell(item[score], metric) for score, metric in keys)]
        for name, item in detections.items()
    }
    return ["novel classes told from the task's:", *_table(["n", *(" ".join(key) for key in keys)], rows)]


def _table(columns: list[str], rows: dict[str, list[str]]) -> list[str]:
    width = max(map(len, rows))
    lines = [name.ljust(width) + "".join(f" {cell:>16}" for cell in cells) for name, cells in rows.items()]
    return [" " * width + "".join(f" {column:>16}" for column in columns), *lines]


def _cell(metrics: dict[str, Any], column: str) -> str:
    """Format a metric with its interval: "0.873[.78,.91]", which is narrower than a cell of the other tables."""
    from graft.results.cells import MISSING, brackets, fixed

    value = metrics.get(column)
    if value is None:
        return MISSING
    if column in ("n", "n_cut"):
        return f"{value:,}"
    return fixed(3)(value) + brackets(metrics["ci"].get(column), lambda end: fixed(2)(end).removeprefix("0"), ",")
