"""What the importance of weights costs, against EWC's: bytes of importance and anchor, and the time to estimate it.

On the embedded encoder (10.6M weights in its layers) and the starter topics (200 examples, batch 8), one thread, CPU
seconds; recording and the squared gradients of single examples are timed in turn over the same batches.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from graft.files.location import locate
from graft.scores.gradients import GradientMean
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.importance.importance_file import save_importance
from graft.train.importance.importance_weights import ImportanceWeights
from graft.train.importance.synaptic_intelligence import SynapticIntelligence
from graft.train.penalty import Penalty
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper

BASE, TASK, EPOCHS = "embedded:all-MiniLM-L6-v2", "recipes/starter/topics/task.yaml", 5
FISHER = "squared gradients of single examples"


def measure() -> list[dict[str, object]]:
    """One row per quantity: ours, the baseline, and their ratio."""
    torch.set_num_threads(1)
    task = Task.load(TASK)
    config = dataclasses.replace(task.spec.train, l1=0.0, record=RecordSpec())
    head, path = open_head(locate(BASE).path, task.spec), locate(BASE).path
    examples = task.train_examples()
    stepper = Stepper.start(head, TrainingSchedule((len(examples),), config, 0), path)
    assert stepper.recorder is not None
    times = _time_both(stepper, stepper.recorder, head, examples)
    return [*_compare_times(times, len(examples)), *_compare_bytes(stepper, stepper.recorder)]


def _time_both(
    stepper: Stepper, recorder: SynapticIntelligence, head: Head, examples: list[Example]
) -> dict[str, float]:
    """Median CPU seconds per batch of 8."""
    times: dict[str, list[float]] = {"step and record": [], "record": [], "single": [], "batch": []}
    parameters = {name: weight.owner for name, weight in recorder.weights.items()}
    for planned in stepper.schedule.batches(0):
        step, batch = planned.step, [examples[i] for i in planned.positions]
        times["step and record"].append(_seconds(lambda batch=batch, step=step: stepper.take(head, batch, step)))  # type: ignore[misc]
        for weight in recorder.weights.values():
            weight.owner.grad = torch.ones_like(weight.owner)
        times["record"].append(_seconds(lambda: recorder.record(0, 1.0)))  # nothing moved: omega stays
        for kind, size in (("single", 1), ("batch", len(batch))):
            mean = GradientMean(head, parameters, batch, size)
            times[kind].append(_seconds(lambda mean=mean: mean.of(torch.square)))  # type: ignore[misc]
        head.model.train()
    return {kind: statistics.median(values) for kind, values in times.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _compare_times(times: dict[str, float], n: int) -> list[dict[str, object]]:
    batches = n / 8
    single, batch = times["single"] * batches, times["batch"] * batches
    rows = [
        ("record the path: one epoch, s", times["record"] * batches, FISHER, single),
        (f"record the path: {EPOCHS} epochs, s", EPOCHS * times["record"] * batches, FISHER, single),
        (f"record every 4th step: {EPOCHS} epochs, s", EPOCHS * times["record"] * batches / 4, FISHER, single),
        ("squared gradients of batches of 8, s", batch, FISHER, single),
        ("a step with its record, s", times["step and record"], "without", times["step and record"] - times["record"]),
    ]
    return [_row(*row) for row in rows]


def _compare_bytes(stepper: Stepper, recorder: SynapticIntelligence) -> list[dict[str, object]]:
    weights = [weight for group in stepper.optimizer.param_groups for weight in group["params"]]
    dense = ("dense fp32 Fisher and anchor", 8 * sum(weight.numel() for weight in weights))
    held = {share: recorder.keep(share, 1.0) for share in (1.0, 0.1)}
    rows = [_row(f"file at a share of {share:g}, bytes", _file_size(part), *dense) for share, part in held.items()]
    return [
        *rows,
        *(
            _row(f"held while training at a share of {share:g}, bytes", _held_bytes(stepper, part), *dense)
            for share, part in held.items()
        ),
    ]


def _held_bytes(stepper: Stepper, held: ImportanceWeights) -> int:
    """Of indices, strengths and those anchors that do not stay in the base's mapped file."""
    with tempfile.TemporaryDirectory() as name:
        stepper.head.model.save_pretrained(name)
        base = Checkpoint.open(Path(name))
        penalty = Penalty.of(stepper.head.model, base, held, RegularizeSpec())
    parts = [(term.indices, term.omega, term.anchors if term.indices is not None else None) for term in penalty.terms]
    return sum(tensor.nbytes for part in parts for tensor in part if tensor is not None)


def _file_size(held: ImportanceWeights) -> int:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "importance.safetensors"
        save_importance(held, path)
        return path.stat().st_size


def _row(what: str, ours: float, baseline: str, theirs: float) -> dict[str, object]:
    shown = [value if isinstance(value, int) else round(value, 3) for value in (ours, theirs)]
    ratios = {"ours / baseline": f"{ours / theirs:.3f}", "baseline / ours": f"{theirs / ours:.1f}"}
    return {"quantity": what, "ours": shown[0], "baseline": baseline, "baseline's": shown[1], **ratios}


if __name__ == "__main__":
    for row in measure():
        print(row)
