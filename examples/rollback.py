"""How much of a lost task comes back for how few weights, against random weights, magnitude and interpolation.

An encoder learns sst2 and then trec at a rate at which it forgets. Each seed is rolled back at several densities, with
the base's values and with refit ones, and measured on test: all of trec's, every second row of sst2's. The line to the
base is matched on validation: the point that restores most at no more than a point of trec.

GRAFT_DATA=MIRROR python examples/rollback.py recipes/tasks FOLDER 0 1 2

What is in FOLDER is not computed again; it gets rollback-SEED.json, and table.md and rollback.png over all seeds there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from graft.evaluate.interpolation import interpolate, interpolated
from graft.evaluate.rollback import start_trial
from graft.evaluate.t_interval import mean_interval
from graft.localize.rollback import open_reversed
from graft.results.cells import cell, fixed
from graft.specs.rollback import RollbackSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import Head, open_head, share_model
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task

DENSITIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SETTINGS = {  # name -> densities, settings
    "refit": (DENSITIES[:2], {"values": "refit"}),
    "taylor": (DENSITIES, {"method": "taylor"}),
    "attribution": (DENSITIES[2:3], {"method": "attribution"}),
    "attribution, gain alone": (DENSITIES[2:3], {"method": "attribution", "keep_weight": 0.0}),
    "magnitude": (DENSITIES[2:], {"method": "magnitude"}),
    "random": (DENSITIES[2:], {"method": "random"}),
}
LINE = (0.1, 0.2, 0.3, 0.4)  # of the way back to the base
TOLERANCE = 0.01
FIRST = TrainSpec(optimizer="sgd", lr=2e-1, epochs=4, batch_size=8, scope="layers", l1=1.5e-4)
SECOND = TrainSpec(optimizer="adamw", lr=3e-4, epochs=3, batch_size=16, scope="all", l1=0.0)

Result = dict[str, Any]  # setting -> [accuracy on the new task, on the old one], test


class Seed:
    """One seed's models and results, which are kept in a file as they come."""

    def __init__(self, tasks: Path, folder: Path, seed: int) -> None:
        self.old = Task.load(tasks / "sst2.yaml", ("shots=128", "max_length=32", "ood={}")).with_seed(seed)
        self.new = Task.load(tasks / "trec.yaml", ("shots=64", "max_length=32")).with_seed(seed)
        self.base, self.tuned = folder / f"base-{seed}", folder / f"tuned-{seed}"
        self.file = folder / f"rollback-{seed}.json"
        self.results: Result = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        self.tests = self.new.test_examples(), self.old.test_examples()[::2]

    def train(self) -> None:
        """Train both models where they are not there."""
        if not self.base.exists():
            train_task("embedded:all-MiniLM-L6-v2", self.old, self.base, config=FIRST)
        if not self.tuned.exists():
            train_task(self.base, self.new, self.tuned, config=SECOND)

    def measure(self, head: Head) -> list[float]:
        """Return both accuracies on test."""
        return [
            head.accuracy(self.tests[0], label="new"),
            share_model(head, self.old.spec).accuracy(self.tests[1], label="old"),
        ]

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a result, computed and saved where it is not there."""
        if name not in self.results:
            self.results[name] = compute()
            self.file.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
            print(self.file.stem, name, self.results[name], flush=True)
        return self.results[name]

    def measure_setting(self, name: str) -> None:
        """Measure a setting at all its densities."""
        densities, settings = SETTINGS[name]
        if all(f"{name} {density:g}" in self.results for density in densities):
            return
        config = RollbackSpec(densities=densities, exact_scores=True, **settings)  # type: ignore[arg-type]
        trial = start_trial(self.base, self.tuned, self.new, [self.old], config)
        self.once("tuned", lambda: self.measure(trial.head))
        for density, k in zip(densities, trial.budgets, strict=True):

            def compute(k: int = k) -> list[float]:
                with trial.values.written(k):
                    return self.measure(trial.head)

            self.once(f"{name} {density:g}", compute)

    def measure_line(self) -> None:
        """Measure the point on the line to the base that restores most on validation at the tolerance."""
        if "line" in self.results:
            return
        head, pair = open_head(self.tuned, self.new.spec), open_reversed(self.base, self.tuned)
        examples, other = self.new.validation_examples(), share_model(head, self.old.spec)
        before, share = head.accuracy(examples), 0.0
        restored = other.accuracy(self.old.validation_examples())
        for at in LINE:
            with interpolated(head.model, pair, interpolate(at)):
                found = other.accuracy(self.old.validation_examples())
                if before - head.accuracy(examples) <= TOLERANCE + 1e-9 and found > restored:
                    share, restored = at, found
        with interpolated(head.model, pair, interpolate(share)):
            self.once("line", lambda: self.measure(head))
        self.once("line's share", lambda: share)


def summarize(seeds: list[Result]) -> Iterator[tuple[str, float | None, Result, Result]]:
    """Yield setting, density, share of the loss that is back, and cost in points: of each the mean and t-interval."""
    names = [(f"{name} {at:g}", name, at) for name, (densities, _) in SETTINGS.items() for at in densities]
    for key, name, at in [*names, ("line", "the line to the base", None)]:
        if rows := [seed for seed in seeds if key in seed]:
            shares = [(seed[key][1] - seed["tuned"][1]) / (seed["base"][1] - seed["tuned"][1]) for seed in rows]
            costs = [100 * (seed["tuned"][0] - seed[key][0]) for seed in rows]
            yield name, at, mean_interval(shares), mean_interval(costs)


def write_table(seeds: list[Result], path: Path, command: str) -> None:
    """Write Markdown: settings, mean and 95 % t-interval over the seeds."""
    ends = {name: [sum(seed[name][i] for seed in seeds) / len(seeds) for i in (0, 1)] for name in ("base", "tuned")}
    lines = [
        "# Rollback: sst2 back into an encoder that then learned trec",
        "",
        f"Base: sst2 {ends['base'][1]:.3f}, trec {ends['base'][0]:.3f}. Tuned: sst2 {ends['tuned'][1]:.3f}, "
        f"trec {ends['tuned'][0]:.3f}. Test, means; ± is half the 95 % t-interval over n seeds.",
        "",
        "| values, entries | density | n | share of the sst2 loss back | cost, points of trec |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, at, share, cost in summarize(seeds):
        density = "" if at is None else f"{at:g}"
        lines.append(f"| {name} | {density} | {len(share['values'])} | {_cell(share, 2)} | {_cell(cost, 1)} |")
    path.write_text("\n".join([*lines, "", command, ""]), encoding="utf-8")


def draw_curves(seeds: list[Result], path: Path) -> None:
    """Draw the share that is back and the cost against the density."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name in SETTINGS:
        rows = [row for row in summarize(seeds) if row[0] == name]
        for axis, column in zip(axes, (2, 3), strict=True):
            values: list[Any] = [row[column] for row in rows]
            if not rows:
                continue
            axis.errorbar(
                [row[1] for row in rows],
                [value["mean"] for value in values],
                [value["half"] or 0 for value in values],
                marker="o", capsize=2, label=name,
            )  # fmt: skip
    for axis, label in zip(axes, ("share of the sst2 loss back", "cost, points of trec"), strict=True):
        axis.set(xscale="log", xlabel="entries written, share of all weights", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].axhline(0.5, color="grey", linestyle=":")
    axes[1].axhline(100 * TOLERANCE, color="grey", linestyle=":")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=130)


def _cell(found: Result, digits: int) -> str:
    return cell(found["mean"], half=found["half"], show=fixed(digits))


def main(tasks: Path, folder: Path, numbers: list[int]) -> None:
    """Measure the seeds, one setting after another, and write table and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [Seed(tasks, folder, number) for number in numbers]
    for seed in seeds:
        seed.train()
        seed.once("base", lambda seed=seed: seed.measure(open_head(seed.base, seed.new.spec)))  # type: ignore[misc]
    for name in SETTINGS:
        for seed in seeds:
            seed.measure_setting(name)
    for seed in seeds:
        seed.measure_line()
    results = [seed.results for seed in seeds]
    given = " ".join(map(str, numbers))
    command = f"`python examples/rollback.py recipes/tasks FOLDER {given}`, one CPU core."
    write_table(results, folder / "table.md", command)
    draw_curves(results, folder / "rollback.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(seed) for seed in sys.argv[3:]])
