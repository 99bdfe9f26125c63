"""Time and memory of a refit on the embedded encoder, beside the AdamW training that made the model it is fitted to.

The starter film reviews (256 labeled sentences, repeated where more texts are asked for), each run in a process of its
own, one thread, processor time. Memory is the highest anonymous memory above the imported interpreter. One run is made
as a refit without its savings would be: with whole gradients of matrices, and each batch padded to its longest text.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401 - counts as the interpreter's

from graft.refit import fitting
from graft.refit.refit import refit_skill
from graft.scores.candidates import CandidateSum
from graft.scores.gradients import capture_gradients
from graft.specs.refit import RefitSpec
from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.benchmarks.compose import Peak

BASE, TASK = "embedded:all-MiniLM-L6-v2", Path("recipes/starter/reviews/task.yaml")
ADAMW = TrainSpec(optimizer="adamw", lr=5e-5, epochs=3, scope="layers")
RUNS = ((1e-4, 2000), (1e-5, 2000), (1e-3, 2000), (1e-4, 256), (1e-4, 1000))  # density, texts
Row = dict[str, object]


def measure() -> list[Row]:
    """A row for the training, and one for each density and number of texts."""
    with tempfile.TemporaryDirectory() as name:
        tuned = Path(name) / "tuned"
        baseline = _run("train", str(tuned))
        rows: list[Row] = [_row("AdamW, 256 examples x 3 epochs", baseline, baseline)]
        for density, texts in RUNS:
            measured = _run("refit", str(tuned), str(density), str(texts))
            rows.append(_row(f"refit at {density:g} to {texts:,} texts x 3", measured, baseline))
        plain = _run("plain", str(tuned), *map(str, RUNS[0]))
        rows.append(_row("the first of them, with whole gradients and whole batches", plain, baseline))
    return rows


def _row(what: str, measured: dict[str, float], baseline: dict[str, float]) -> Row:
    return {
        "run": what,
        "processor s": round(measured["seconds"], 1),
        "x training": f"{measured['seconds'] / baseline['seconds']:.2f}",
        "peak MiB": round(measured["peak"]),
        "x training's": f"{measured['peak'] / baseline['peak']:.2f}",
    }


def _run(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.refit", *arguments]
    run = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def _work(kind: str, tuned: Path, density: float = 1e-4, texts: int = 2000) -> None:
    torch.set_num_threads(1)
    task = Task.load(TASK)
    examples = task.training_texts()
    idle, peak, begun = Peak.now(), Peak(), time.process_time()
    if kind == "train":
        train_task(BASE, task, tuned, config=ADAMW)
    else:
        if kind == "plain":
            fitting.capture_entry_gradients = _capture_whole  # type: ignore[assignment]
            fitting.split_by_length = lambda part: [part]  # type: ignore[assignment]
        repeated = [dataclasses.replace(examples[i % len(examples)]) for i in range(texts)]
        refit_skill(BASE, tuned, task, RefitSpec(density=density, texts=texts), texts=repeated)
    print(json.dumps({"seconds": time.process_time() - begun, "peak": peak.stop() - idle / 1024}))


def _capture_whole(model: torch.nn.Module, sink: CandidateSum[Any]) -> Any:
    return capture_gradients(model, sink.candidates.weights, sink)


if __name__ == "__main__":
    kind, folder, *more = sys.argv[1:]
    _work(kind, Path(folder), *([float(more[0]), int(more[1])] if more else []))  # type: ignore[arg-type]
