"""What a TASK without a `train` block gives, against AdamW on all weights.

Every TASK file is read without its train block, as a newcomer would write it, and trained twice from the embedded
encoder: as the defaults say (few weights, `graft.specs.train.train_unless_told`), and by AdamW at 5e-5 on all weights
of the layers. Both are measured on the first 1,000 rows of test. The defaults were chosen on the tasks of CHOSEN_ON.

GRAFT_DATA=MIRROR python examples/defaults.py recipes/tasks FOLDER 0 1 2 [--tasks cr,mpqa]

Each measurement is a line of defaults.json in FOLDER and is not made again; table.md there is written over all lines.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from statistics import fmean

from graft.evaluate.evaluation import evaluate_task
from graft.evaluate.t_interval import mean_interval
from graft.results.cells import cell, fixed
from graft.results.tables import Block, TextTable, to_markdown
from graft.specs.train import TrainSpec, train_unless_told
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task

BASE = "embedded:all-MiniLM-L6-v2"
CHOSEN_ON = ("sst2", "trec")
REPORTED = ("agnews", "cr", "mpqa", "scicite", "snli", "subj", "sms_spam")
TRAININGS = {
    "AdamW": TrainSpec(optimizer="adamw", lr=5e-5, epochs=3, batch_size=16, scope="layers"),
    "default": train_unless_told(),
}
ROWS = 1000  # of test
MEASURES = ("accuracy", "ece", "nll")

Results = dict[str, dict[str, float]]  # "task seed model" -> measures


def measure_seed(task: Task, seed: int, folder: Path, results: Results) -> None:
    """Measure base and both trained models of a task and seed, those that are not there yet."""
    task = task.with_seed(seed)
    for name in ("base", *TRAININGS):
        key = f"{task.spec.name} {seed} {name}"
        if key in results:
            continue
        tuned, model = folder / key.replace(" ", "-"), BASE
        if name in TRAININGS:
            model = str(train_task(BASE, task, tuned, config=TRAININGS[name], force=True).path)
        report = evaluate_task(model, task, limit=ROWS)
        results[key] = {measure: float(report[measure]) for measure in MEASURES}
        (folder / "defaults.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(key, results[key], flush=True)
        shutil.rmtree(tuned, ignore_errors=True)


def write_table(results: Results, path: Path) -> None:
    """Write Markdown: of each task means and 95 % t-intervals over its seeds, and points lost to AdamW."""
    head = ["task", "seeds", "base", "AdamW, all weights", "default, 0.01 % of the weights", "lost", "gain kept"]
    head += [f"{measure.upper()}, {name}" for measure in MEASURES[1:] for name in TRAININGS]
    tasks = [task for task in (*CHOSEN_ON, *REPORTED) if _seeds(task, results)]
    blocks: list[Block] = [
        "# A TASK without a train block, against AdamW on all weights",
        f"Embedded encoder, first {ROWS} rows of test; ± is half the 95 % t-interval over seeds. Lost: AdamW's "
        "accuracy less the default's, in points; the goal was at most one. Gain kept: of AdamW's gain over the base.",
        TextTable(head, [_row(task, results) for task in tasks]),
    ]
    if reported := [task for task in tasks if task in REPORTED]:
        lost, kept = (fmean(fmean(of(task, results)) for task in reported) for of in (_lost, _kept))
        chosen = f"The defaults were chosen on {' and '.join(CHOSEN_ON)}."
        blocks += [f"{chosen} Mean over the other tasks: {lost:.2f} points lost, {kept:.3f} of the gain kept."]
    path.write_text(to_markdown(blocks) + "\n", encoding="utf-8")


def _seeds(task: str, results: Results) -> list[int]:
    """Return the seeds of which all models are measured."""
    seeds = sorted({int(key.split()[1]) for key in results if key.split()[0] == task})
    return [seed for seed in seeds if all(f"{task} {seed} {name}" in results for name in ("base", *TRAININGS))]


def _values(task: str, model: str, measure: str, results: Results) -> list[float]:
    return [results[f"{task} {seed} {model}"][measure] for seed in _seeds(task, results)]


def _lost(task: str, results: Results) -> list[float]:
    pairs = zip(*(_values(task, name, "accuracy", results) for name in TRAININGS), strict=True)
    return [100 * (whole - few) for whole, few in pairs]


def _kept(task: str, results: Results) -> list[float]:
    base, whole, few = (_values(task, name, "accuracy", results) for name in ("base", *TRAININGS))
    return [(c - a) / (b - a) for a, b, c in zip(base, whole, few, strict=True)]


def _cell(values: list[float], digits: int = 3) -> str:
    found = mean_interval(values)
    return cell(found["mean"], half=found["half"], show=fixed(digits))


def _row(task: str, results: Results) -> list[str]:
    accuracy = [_cell(_values(task, name, "accuracy", results)) for name in ("base", *TRAININGS)]
    others = [_cell(_values(task, name, measure, results)) for measure in MEASURES[1:] for name in TRAININGS]
    lost, kept = _cell(_lost(task, results), 1), _cell(_kept(task, results))
    return [task, str(len(_seeds(task, results))), *accuracy, lost, kept, *others]


def main(tasks: Path, folder: Path, seeds: list[int], names: list[str]) -> None:
    """Measure seed by seed, every task of a seed, and write the table after each."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "defaults.json"
    results: Results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for seed in seeds:
        for name in names:
            task = Task.load(tasks / f"{name}.yaml", ("ood={}",))
            bare = dataclasses.replace(task.spec, train=train_unless_told())
            measure_seed(dataclasses.replace(task, spec=bare), seed, folder, results)
            write_table(results, folder / "table.md")


if __name__ == "__main__":
    given = sys.argv[1:]
    names = [*REPORTED, *CHOSEN_ON]
    if "--tasks" in given:
        at = given.index("--tasks")
        names = given[at + 1].split(",")
        del given[at : at + 2]
    main(Path(given[0]), Path(given[1]), [int(seed) for seed in given[2:]], names)
