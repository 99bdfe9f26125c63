"""How much of a lost task comes back for how few weights, against random weights, magnitude and interpolation.

An encoder learns sst2 and then trec at a rate at which it forgets; each seed is rolled back at several densities, and
every graft and control is measured on the test splits. Settings of the controls are matched on validation: the point of
the line to the base that restores most at the tolerance.

GRAFT_DATA=MIRROR python examples/rollback.py recipes/tasks FOLDER 0 1 2
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from graft.evaluate.interpolation import interpolate, interpolated
from graft.evaluate.rollback import roll_back
from graft.evaluate.t_interval import mean_interval
from graft.localize.rollback import open_reversed
from graft.patch.live import apply_patch
from graft.specs.rollback import RollbackSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import Head, open_head, share_model
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import train_task

DENSITIES = (1e-5, 1e-4, 1e-3, 1e-2)
METHODS = ("attribution", "magnitude", "random")
LINE = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the way back to the base
TOLERANCE = 0.01
FIRST = TrainSpec(optimizer="sgd", lr=2e-1, epochs=4, batch_size=8, scope="layers", l1=1.5e-4)
SECOND = TrainSpec(optimizer="adamw", lr=3e-4, epochs=3, batch_size=16, scope="all", l1=0.0)


def measure_seed(tasks: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Return accuracies on test of one seed: setting -> [keep, restore]; the base and the tuned model among them."""
    old = Task.load(tasks / "sst2.yaml", ("shots=64", "max_length=32", "ood={}")).with_seed(seed)
    new = Task.load(tasks / "trec.yaml", ("shots=64", "max_length=32")).with_seed(seed)
    base, tuned = folder / f"base-{seed}", folder / f"tuned-{seed}"
    if not base.exists():
        train_task("embedded:all-MiniLM-L6-v2", old, base, config=FIRST)
    if not tuned.exists():
        train_task(base, new, tuned, config=SECOND)
    result: dict[str, Any] = {"base": _test(open_head(base, new.spec), new, old)}
    head = open_head(tuned, new.spec)
    result["tuned"] = _test(head, new, old)
    few = Task.load(tasks / "trec.yaml", ("shots=24", "max_length=32")).with_seed(seed)
    for method in METHODS:
        for density in DENSITIES:
            config = RollbackSpec(densities=(density,), method=method)  # type: ignore[arg-type]
            found = roll_back(base, tuned, few, [old], config)
            with apply_patch(head.model, found.patch):
                result[f"{method} {density:g}"] = _test(head, new, old)
    share = _match_line(head, open_reversed(base, tuned), new, old)
    with interpolated(head.model, open_reversed(base, tuned), interpolate(share)):
        result["interpolation"] = _test(head, new, old)
    return result | {"interpolation_share": share}


def _match_line(head: Head, pair: CheckpointPair, new: Task, old: Task) -> float:
    """Return how far back on the line to the base most is restored on validation at the tolerance; 0: nowhere."""
    examples, other = new.validation_examples(), share_model(head, old.spec)
    before, restored = head.accuracy(examples), {0.0: other.accuracy(old.validation_examples())}
    for share in LINE:
        with interpolated(head.model, pair, interpolate(share)):
            if before - head.accuracy(examples) <= TOLERANCE:
                restored[share] = other.accuracy(old.validation_examples())
    return max(restored, key=lambda share: (restored[share], -share))


def summarize(seeds: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: share of the loss that is back and cost in points, mean and 95 % t-interval."""
    rows = ["| setting | share of the loss back | cost, points of the new task |", "| --- | --- | --- |"]
    for name in [name for name in seeds[0] if isinstance(seeds[0][name], list) and name not in ("base", "tuned")]:
        # of sums over seeds, since one seed may have lost little
        lost = sum(seed["base"][1] - seed["tuned"][1] for seed in seeds) / len(seeds)
        shares = [(seed[name][1] - seed["tuned"][1]) / lost for seed in seeds]
        costs = [100 * (seed["tuned"][0] - seed[name][0]) for seed in seeds]
        rows.append(f"| {name} | {_cell(shares, 2)} | {_cell(costs, 1)} |")
    return rows


def _cell(values: list[float], digits: int) -> str:
    found = mean_interval(values)
    half = "" if found["half"] is None else f" ± {found['half']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{half}"


def _test(head: Head, new: Task, old: Task) -> list[float]:
    return [
        head.accuracy(new.test_examples(), label="new"),
        share_model(head, old.spec).accuracy(old.test_examples(), label="old"),
    ]


if __name__ == "__main__":
    tasks, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    results = [measure_seed(tasks, folder, int(seed)) for seed in sys.argv[3:]]
    (folder / "rollback.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(*summarize(results), sep="\n")
