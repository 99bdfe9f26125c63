"""Several runs at a glance: a row a task, methods as columns, and who is ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from graft.evaluate.registry import label_of
from graft.report.estimates import (
    Paired,
    Verdict,
    controls_of,
    difference_of,
    estimate_of,
    gain_of,
    methods_of,
    over_tasks,
)
from graft.report.page.cells import cell, paired_cell, signed
from graft.report.page.document import note, section
from graft.report.page.markup import Html, Part, Table, element, folded
from graft.report.page.plot_writer import PlotWriter
from graft.report.plots.forest import READING, plot_forest
from graft.report.plots.plot import Plot
from graft.report.run_folder import RunFolder
from graft.results.models import CONTROL_NAMES, graft_name

Pairs = dict[str, dict[str, Paired]]  # the other model -> task, "mean over tasks" last -> difference
MEAN = "mean over tasks"
CHOICE = "Is the choice of weights better than a simpler one?"
CALIBRATION = "Is the calibration gain more than that of moving less?"
_WORDS: dict[Verdict, str] = {"ahead": "ahead", "tie": "tied", "behind": "behind", "unknown": "undecided"}


def overview_section(runs: Sequence[RunFolder], plots: PlotWriter) -> Html:
    """Build the section on what all runs together show."""
    return section(
        "overview",
        "All tasks at a glance",
        _gains_table(runs),
        _forest_part(runs, plots, "accuracy", _other_methods(runs), CHOICE),
        _forest_part(runs, plots, "ece", ["tuned", *_all_controls(runs)], CALIBRATION),
        folded("ECE of every method", _metric_table(runs, "ece", "ECE on test")),
        level=2,
    )


def _gains_table(runs: Sequence[RunFolder]) -> Html:
    methods = _all_methods(runs)
    rows = []
    for run in runs:
        n = estimate_of(run, "base", "n")
        gains = (cell(gain_of(run, graft_name(method))) if method in methods_of(run) else "–" for method in methods)
        rows.append(
            [
                element("a", run.name, href=f"#run-{runs.index(run) + 1}"),
                run.entries,
                f"{n.mean:,.0f}" if n else "–",
                *(cell(estimate_of(run, name, "accuracy")) for name in ("base", "tuned", run.main)),
                *gains,
            ]
        )
    head = [
        "task",
        "entries",
        "n test",
        "base: accuracy",
        "tuned: accuracy",
        "graft: accuracy",
        *(f"gain, {method}" for method in methods),
    ]
    text = note(
        "Gain: (graft − base) / (tuned − base) in accuracy on the test split, none where tuning gained nothing; mean "
        f"± 95 % t-interval over seeds. The graft of a task is the one by its own method: {_mains(runs)}."
    )
    return element("div", Table(head, rows).render("Recovered gain of every task and method"), text)


def _mains(runs: Sequence[RunFolder]) -> str:
    methods = list(dict.fromkeys(run.method for run in runs))
    if len(methods) == 1:
        return methods[0]
    return "; ".join(
        f"{method} for {', '.join(run.name for run in runs if run.method == method)}" for method in methods
    )


def _metric_table(runs: Sequence[RunFolder], metric: str, label: str) -> Html:
    methods = _all_methods(runs)
    names = ["base", "tuned", *map(graft_name, methods)]
    rows: list[list[Part]] = [[run.name, *(cell(estimate_of(run, name, metric)) for name in names)] for run in runs]
    return Table(["task", *names], rows).render(label)


def _all_methods(runs: Sequence[RunFolder]) -> list[str]:
    return list(dict.fromkeys(method for run in runs for method in methods_of(run)))


def _all_controls(runs: Sequence[RunFolder]) -> list[str]:
    return [name for name in CONTROL_NAMES.values() if any(name in controls_of(run) for run in runs)]


def _other_methods(runs: Sequence[RunFolder]) -> list[str]:
    return [graft_name(method) for method in _all_methods(runs)]


def _forest_part(
    runs: Sequence[RunFolder], plots: PlotWriter, metric: str, others: Sequence[str], title: str
) -> Html | None:
    pairs = _pairs(runs, metric, others)
    if not pairs:
        return None
    tasks = [task for task in (*(run.name for run in runs), MEAN) if any(task in rows for rows in pairs.values())]
    short = _short_names(runs)
    panels: Mapping[str, Mapping[str, Paired]] = {f"graft minus {short[other]}": rows for other, rows in pairs.items()}
    figure = plots.add(
        f"overview-{metric}",
        Plot(
            partial(plot_forest, panels, title=f"{title} ({label_of(metric)} on test)", rows=tasks),
            alt=f"Forest plot of paired differences in {metric} by task; the numbers are in the table below.",
            caption=f"{READING}. Diamond: the mean over tasks, with its interval over tasks.",
        ),
    )
    rows: list[list[Part]] = [[task, *(paired_cell(pairs[other].get(task)) for other in pairs)] for task in tasks]
    strong = frozenset({len(rows) - 1} if rows[-1][0] == MEAN else ())
    table = Table(["task", *panels], rows, strong).render(f"{title} Paired differences in {metric}")
    return section(None, title, figure, table, element("p", _count_verdicts(pairs, short), klass="note"))


def _pairs(runs: Sequence[RunFolder], metric: str, others: Sequence[str]) -> Pairs:
    table: Pairs = {}
    for other in others:
        differences = {run.name: difference_of(run, other, metric) for run in runs if other != run.main}
        rows = {name: paired for name, paired in differences.items() if paired}
        if len(rows) > 1:
            rows[MEAN] = over_tasks(list(rows.values()))
        if rows:
            table[other] = rows
    return table


def _count_verdicts(pairs: Pairs, short: Mapping[str, str]) -> str:
    """Return a line such as "Against magnitude: ahead on 3, tied on 2, behind on 1 of 6 tasks, mean +.012."."""
    parts = []
    for other, rows in pairs.items():
        verdicts = Counter(paired.verdict for task, paired in rows.items() if task != MEAN)
        counts = [f"{word} on {verdicts[key]}" for key, word in _WORDS.items() if verdicts[key]]
        mean = f", mean {signed(rows[MEAN].estimate.mean)}" if MEAN in rows else ""
        parts.append(f"Against {short[other]}: {', '.join(counts)} of {verdicts.total()}{mean}.")
    return " ".join(parts)


def _short_names(runs: Sequence[RunFolder]) -> dict[str, str]:
    """Return model -> the method of a graft, the name of another model."""
    models = {name: model for run in runs for name, model in run.models.items()}
    return {name: model.method if model.role == "graft" and model.method else name for name, model in models.items()}
