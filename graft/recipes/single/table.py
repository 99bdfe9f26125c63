"""Metrics of several seeds as means with intervals, and as tables that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from graft.evaluate.registry import metrics_shown
from graft.evaluate.t_interval import mean_interval, mean_intervals
from graft.results.areas import SIDES, areas_of, describe_range
from graft.results.cells import MISSING, cell, decimal, mean_cell, signed_decimal
from graft.results.gain_split import split_gain
from graft.results.models import Model
from graft.results.seeds import SingleSeed
from graft.results.tables import Block, TextTable

Metrics = Mapping[str, Mapping[str, Any]]  # "METRIC" or "SET.METRIC" -> mean, half, values
MUCH = 0.01  # of the weights that moved
FIRST = ("accuracy", "ece")  # metrics that lead; the others follow in the registry's order
Pooled = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]  # of `graft.evaluate.pooling.pool_seeds`


def summarize(seeds: Sequence[SingleSeed]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return model -> "METRIC" or "SET.METRIC" -> mean, half-width of the 95 % t-interval over seeds, and values."""
    flat = {name: [seed.models[name].flatten() for seed in seeds] for name in seeds[0].models}
    return {name: mean_intervals(rows) for name, rows in flat.items()}


def tabulate_run(
    main: str,
    sets: Sequence[str],
    summary: Mapping[str, Metrics],
    models: Mapping[str, Model],
    seeds: Sequence[SingleSeed],
    pooled: Pooled,
) -> list[Block]:
    """Return all tables of a run: models; controls and necessity; the gain split; the main graft minus each.

    Args:
        main: name of the main graft.
        sets: the out-of-distribution sets that have accuracy.
        summary: of `summarize`.
        models: what each model is.
        seeds: results of each seed.
        pooled: paired differences.
    """
    blocks: list[Block] = [tabulate_models(pick_main(summary, models), sets), *_describe_share(seeds)]
    controls = tabulate_controls(summary, models, seeds)
    if controls is not None:
        blocks += [f"Controls, chosen on validation to match {main}; the tuned model without a region:", controls]
    split = split_gain(seeds, models)
    if split is not None:
        blocks += [split.sentence, split.table()]
    areas = tabulate_areas(seeds)
    if areas is not None:
        blocks += [
            f"Areas under the curves over the logarithm of the density {describe_range(seeds)}, "
            "0 for the base and 1 for the tuned:",
            areas,
        ]
    over = "mean over seeds [95 % for the choice of test examples]"
    return [*blocks, f"{main} minus each other model, paired by example, {over}:", tabulate_differences(pooled)]


def _describe_share(seeds: Sequence[SingleSeed]) -> Iterator[str]:
    """Say what share of all that moved a graft holds, where it is much: random ones are drawn from the same weights."""
    found = [(seed.k, seed.diagnosis.numbers) for seed in seeds if seed.diagnosis is not None]
    moved = [numbers["changed"] * numbers["n_scope"] for _, numbers in found]
    shares = [k / n for (k, _), n in zip(found, moved, strict=True)]
    if shares and min(shares) >= MUCH:
        share = f"{100 * mean(shares):.0f} %"
        yield (
            f"Tuning moved about {mean(moved):,.0f} weights in scope. A graft holds {share} of them, a random one too, "
            "since it is drawn from what moved: what it gains is a share of the whole tuning."
        )


def pick_main(summary: Mapping[str, Metrics], models: Mapping[str, Model]) -> dict[str, Metrics]:
    """Return the metrics of base, tuned and grafts, which stand in the main table."""
    return {name: row for name, row in summary.items() if models[name].role in ("base", "tuned", "graft")}


def tabulate_models(summary: Mapping[str, Metrics], sets: Sequence[str]) -> TextTable:
    """Return a row per model: accuracy, gain and the other metrics, then each set's accuracy and ECE."""
    columns = list_columns({"recovered_gain": "gain"})
    for name in sets:
        columns |= {f"{name}.accuracy": name, f"{name}.ece": f"{name} ECE"}
    rows = [[model, *(mean_cell(metrics.get(key)) for key in columns)] for model, metrics in summary.items()]
    return TextTable(["model", *columns.values()], rows)


def list_columns(gains: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return key -> heading of the metrics by which models are compared, with gains after the accuracy."""
    metrics = metrics_shown("comparison")
    headings = {name: metrics[name].label for name in (*FIRST, *metrics)}
    return {"accuracy": headings.pop("accuracy"), **(gains or {}), **headings}


def tabulate_controls(
    summary: Mapping[str, Metrics], models: Mapping[str, Model], seeds: Sequence[SingleSeed]
) -> TextTable | None:
    """Return a row per model that is neither base, tuned nor graft; None without any.

    Before the metrics of test: the setting of a control and its accuracy on validation; the lost gain of a tuned
    model without a region.
    """
    columns = list_columns({"recovered_gain": "gain", "lost_gain": "lost gain"})
    rows = []
    for model, metrics in summary.items():
        if models[model].role in ("control", "without"):
            cells = [mean_cell(metrics.get(key)) for key in columns]
            rows.append([model, *_setting(model, seeds), *cells])
    return TextTable(["model", "setting", "validation", *columns.values()], rows) if rows else None


def tabulate_areas(seeds: Sequence[SingleSeed]) -> TextTable | None:
    """Return a row per method of the curve: its areas of recovered and of lost gain; None where none was measured."""
    areas = areas_of(seeds)
    shown = [metric for metric in SIDES if any(metric in row for row in areas.values())]
    rows = [
        [method, *(mean_cell(mean_interval(row[metric]) if metric in row else None) for metric in shown)]
        for method, row in areas.items()
    ]
    return TextTable(["method", *(SIDES[metric] for metric in shown)], rows) if rows else None


def tabulate_differences(pooled: Pooled) -> TextTable:
    """Return the pooled paired differences on test: a row per model, a column per metric, [low, high]."""
    metrics = list_columns()
    rows = [[model, *(_difference_cell(sets["test"].get(key)) for key in metrics)] for model, sets in pooled.items()]
    return TextTable(["minus", *metrics.values()], rows)


def _setting(model: str, seeds: Sequence[SingleSeed]) -> tuple[str, str]:
    controls = [seed.controls[model] for seed in seeds if model in seed.controls]
    if not controls:
        return MISSING, MISSING
    value = mean_interval([control.value for control in controls])
    reached = [control.validation_accuracy for control in controls if control.validation_accuracy is not None]
    shown = cell(value["mean"], half=value["half"], show="{:.3g}".format, show_error="{:.2g}".format)
    is_whole = len(reached) == len(controls)  # a mean over fewer seeds would stand beside means over all
    return f"{controls[0].setting} {shown}", mean_cell(mean_interval(reached) if is_whole else None)


def _difference_cell(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return MISSING
    return cell(item["mean"], ends=(item["low"], item["high"]), show=signed_decimal, show_error=decimal)
