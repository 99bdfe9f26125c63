"""Figures of several seeds as means with intervals, and as a table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.evaluate.t_interval import flatten_report, mean_interval, short_decimal


def summarise(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> "METRIC" or "SET.METRIC" -> mean, half-width of the 95 % t-interval over seeds, and values."""
    models = seeds[0]["models"]
    flat = {name: [flatten_report(seed["models"][name]) for seed in seeds] for name in models}
    return {
        name: {key: mean_interval([row[key] for row in rows]) for key in rows[0] if all(key in row for row in rows)}
        for name, rows in flat.items()
    }


def format_tables(
    main: str,
    sets: Sequence[str],
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seeds: Sequence[Mapping[str, Any]],
    pooled: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
) -> str:
    """All tables of a run as Markdown: base, tuned and grafts; controls and necessity; the main graft minus each.

    Args:
        main: name of the main graft.
        sets: the out-of-distribution sets that have accuracy.
        summary: of `summarise`.
        seeds: what `run_seed` returned.
        pooled: of `graft.evaluate.pooling.pool_seeds`.
    """
    parts = [format_table({name: figures for name, figures in summary.items() if is_main_row(name)}, sets)]
    controls = format_controls(summary, seeds)
    if controls is not None:
        parts += [f"Controls, chosen on validation to match {main}; the tuned model without a region:", controls]
    over = "mean over seeds [95 % for the choice of test examples]"
    parts += [f"{main} minus each other model, paired by example, {over}:", format_differences(pooled)]
    return "\n\n".join(parts)


def format_table(summary: Mapping[str, Mapping[str, Mapping[str, Any]]], sets: Sequence[str]) -> str:
    """The table as Markdown: a row per model; accuracy, gain, ECE, NLL and Brier, then each set's accuracy and ECE."""
    columns = {"accuracy": "accuracy", "recovered_gain": "gain", "ece": "ECE", "nll": "NLL", "brier": "Brier"}
    for name in sets:
        columns |= {f"{name}.accuracy": name, f"{name}.ece": f"{name} ECE"}
    rows = [["model", *columns.values()]]
    rows += [[model, *(format_cell(figures.get(key)) for key in columns)] for model, figures in summary.items()]
    return format_rows(rows)


def format_controls(
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]], seeds: Sequence[Mapping[str, Any]]
) -> str | None:
    """Controls and necessity as Markdown, a row per model that is neither base, tuned nor graft; None without any.

    Before the figures of test: the setting of a control and its accuracy on validation; the lost gain of a tuned
    model without a region.
    """
    columns = {"accuracy": "accuracy", "recovered_gain": "gain", "lost_gain": "lost gain"}
    columns |= {"ece": "ECE", "nll": "NLL", "brier": "Brier"}
    rows = [["model", "setting", "validation", *columns.values()]]
    for model, figures in summary.items():
        if not is_main_row(model):
            cells = [format_cell(figures.get(key)) for key in columns]
            rows.append([model, *_setting([seed.get("controls", {}).get(model) for seed in seeds]), *cells])
    return format_rows(rows) if len(rows) > 1 else None


def format_differences(pooled: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> str:
    """The pooled paired differences on test as Markdown: a row per model, a column per metric, [low, high]."""
    metrics = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL", "brier": "Brier"}
    rows = [["minus", *metrics.values()]]
    for model, sets in pooled.items():
        found = (sets["test"].get(key) for key in metrics)
        rows.append([model, *("–" if item is None else _signed(item) for item in found)])
    return format_rows(rows)


def is_main_row(model: str) -> bool:
    """Whether a model stands in the main table: base, tuned and grafts do, controls and removals do not."""
    return model in ("base", "tuned") or model.startswith("graft")


def _setting(controls: Sequence[Mapping[str, Any] | None]) -> tuple[str, str]:
    found = [control for control in controls if control]
    if not found:
        return "–", "–"
    value, reached = (mean_interval([item[key] for item in found]) for key in ("value", "validation_accuracy"))
    shown = f"{value['mean']:.3g}" + ("" if value["half"] is None else f" ± {value['half']:.2g}")
    return f"{found[0]['setting']} {shown}", format_cell(reached)


def _signed(item: Mapping[str, Any]) -> str:
    mean, low, high = (short_decimal(item[key]) for key in ("mean", "low", "high"))
    return f"{'' if mean.startswith('-') else '+'}{mean} [{low}, {high}]"


def format_cell(figure: Mapping[str, Any] | None) -> str:
    """Mean ± half-width, a dash where there is none."""
    if figure is None:
        return "–"
    return short_decimal(figure["mean"]) + ("" if figure["half"] is None else f" ± {short_decimal(figure['half'])}")


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
