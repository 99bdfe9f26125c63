"""What the precision of a training costs and gives, on a language model in bfloat16 that AdamW tunes on trec.

Each seed trains from the same start in bfloat16 alone (pure), with fp32 master weights (mixed), with fp32 products too
(full), and in fp32 without rounding at the end. Loss curves, weights that moved, accuracy on test, minutes, memory.

GRAFT_DATA=MIRROR python examples/precision.py BASE recipes/tasks FOLDER 0 1 2

What is in FOLDER is not computed again; it gets precision-SEED.json, and table.md and loss.png over all seeds there.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from graft.evaluate.evaluation import evaluate_task
from graft.evaluate.t_interval import mean_interval
from graft.localize.diff import diff_checkpoints
from graft.sources.opening import open_model
from graft.specs.train import Precision, TrainSpec
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from graft.train.stepper import Stepper

SETTINGS: dict[str, tuple[Precision, str]] = {  # name -> precision, dtype that is loaded and saved
    "pure": ("pure", "auto"),
    "mixed": ("mixed", "auto"),
    "full": ("full", "auto"),
    "fp32, not rounded": ("full", "float32"),
}
HEAD = {
    "kind": "verbalizer",
    "template": "Question: {text}\nType: {mask}",
    "words": ["short", "description", "thing", "person", "place", "number"],
}
TRAIN = TrainSpec(optimizer="adamw", lr=2e-5, epochs=2, batch_size=16)
SHOTS = 64
WINDOW = 8  # steps that a point of the curve is a mean over

Result = dict[str, Any]


def load_task(tasks: Path, seed: int) -> Task:
    """Return trec by one word a class."""
    changes = (f"head={json.dumps(HEAD)}", f"shots={SHOTS}")
    return Task.load(tasks / "trec.yaml", changes).with_seed(seed)


def train(base: str, tasks: Path, out: Path, seed: int, precision: Precision, dtype: str) -> Result:
    """Train once, in a process of its own, whose peak memory is then the training's; return the curve and the cost."""
    losses, take = [], Stepper.take

    def taken(stepper: Stepper, *step: Any) -> float:
        losses.append(take(stepper, *step))
        return losses[-1]

    Stepper.take = taken  # type: ignore[method-assign]
    config = TrainSpec(**{**vars(TRAIN), "precision": precision})
    start = time.monotonic()
    made = train_task(base, load_task(tasks, seed), out, config=config, dtype=dtype, force=True)
    minutes, peak = (time.monotonic() - start) / 60, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    accuracies = [epoch.validation_accuracy for epoch in made.epochs]
    return {"losses": losses, "validation": accuracies, "minutes": minutes, "peak": peak}


def measure(base: str, tuned: Path, task: Task) -> Result:
    """Return the accuracy on test, and the share of all weights whose bits differ from the base's."""
    moved = len(diff_checkpoints(base, tuned).mask) / open_model(base).checkpoint.n_parameters
    report = evaluate_task(tuned, task)
    return {"moved": moved, "accuracy": report["accuracy"], "nll": report["nll"]}


def run_seed(base: str, tasks: Path, folder: Path, seed: int) -> dict[str, Result]:
    """Run what is not in the seed's file."""
    file = folder / f"precision-{seed}.json"
    results: dict[str, Result] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, (precision, dtype) in SETTINGS.items():
        if name in results:
            continue
        out = folder / f"tuned-{seed}"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result = pool.submit(train, base, tasks, out, seed, precision, dtype).result()
        results[name] = result | measure(base, out, load_task(tasks, seed))
        shutil.rmtree(out)
        file.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(file.stem, name, {key: value for key, value in results[name].items() if key != "losses"}, flush=True)
    return results


def write_table(seeds: Sequence[dict[str, Result]], path: Path, base: str, numbers: Sequence[int]) -> None:
    """Write Markdown: settings, mean and 95 % t-interval over the seeds."""
    lines = [
        "# Precision of a training: AdamW on trec, a language model in bfloat16",
        "",
        f"{SHOTS} questions a class, {TRAIN.epochs} epochs, rate {TRAIN.lr:g}, batches of {TRAIN.batch_size}; "
        f"seeds: {len(seeds)}. Means; ± is half the 95 % t-interval. Weights moved: their saved bits differ from the "
        "base's.",
        "",
        "| precision | loss, last epoch | weights moved | test accuracy | test NLL | minutes | peak GiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in SETTINGS:
        rows = [seed[name] for seed in seeds]
        last = [row["losses"][-len(row["losses"]) // TRAIN.epochs :] for row in rows]
        columns = [
            _cell([sum(losses) / len(losses) for losses in last], 3),
            _cell([row["moved"] for row in rows], 4),
            *(_cell([row[key] for row in rows], 3) for key in ("accuracy", "nll")),
            _cell([row["minutes"] for row in rows], 1),
            _cell([row["peak"] / 2**30 for row in rows], 2),
        ]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    command = f"`python examples/precision.py {Path(base).name} recipes/tasks FOLDER {' '.join(map(str, numbers))}`"
    path.write_text("\n".join([*lines, "", f"{command}, one CPU core.", ""]), encoding="utf-8")


def draw_curves(seeds: Sequence[dict[str, Result]], path: Path) -> None:
    """Draw the training loss against the step, of each seed, a mean over a few steps a point."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    for number, name in enumerate(SETTINGS):
        look = {"color": "black", "linestyle": ":"} if "not" in name else {"color": f"C{number}"}  # upon that of full
        for seed in seeds:
            losses = seed[name]["losses"]
            points = [losses[start : start + WINDOW] for start in range(0, len(losses), WINDOW)]
            steps = [WINDOW * (i + 0.5) for i in range(len(points))]
            label = name if seed is seeds[0] else None
            axis.plot(steps, [sum(part) / len(part) for part in points], label=label, **look)
    axis.set(xlabel="step", ylabel="training loss, nats")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def _cell(values: Sequence[float], digits: int) -> str:
    found = mean_interval(values)
    half = "" if found["half"] is None else f" ± {found['half']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{half}"


def main(base: str, tasks: Path, folder: Path, numbers: list[int]) -> None:
    """Run the seeds one after another, and write table and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [run_seed(base, tasks, folder, number) for number in numbers]
    write_table(seeds, folder / "table.md", base, numbers)
    draw_curves(seeds, folder / "loss.png")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [int(seed) for seed in sys.argv[4:]])
