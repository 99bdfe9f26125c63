"""Trainings that protect, confine, stop early, are interrupted and go on, each in one process or in two."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from graft.patch.mask import Mask
from graft.specs.localizable import LocalizableSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.fine_tuning import train_task
from graft.train.stepper import Stepper

FEW = LocalizableSpec(density=0.05, proximal_epochs=1, proximal_l1=1e-4, lr=5e-3, epochs=2)
BY_GRADIENT = LocalizableSpec(density=0.05, support="gradient", lr=5e-3, epochs=3)
EPOCH = 8  # steps
_ADAMW = {
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.1,
    "clip": 0.1,
}  # so low that it always bites
# name -> (share of the core, settings, steps after which the training is broken off)
TRAININGS: dict[str, tuple[float, dict[str, Any], int]] = {
    "stopped": (0.5, {**_ADAMW, "epochs": 4, "stop_at": 0.85, "check_every": 3}, EPOCH + 2),
    "most": (0.95, {**_ADAMW, "epochs": 2}, EPOCH + 3),  # few are free: the compact way where the model is whole
    "pulled": (0.5, {"l1": 1e-4, "epochs": 1}, 0),
    "localizable": (0.3, {"localizable": FEW}, 2 * EPOCH + 1),  # in the second of its trainings
    "by gradient": (0.3, {"localizable": BY_GRADIENT}, 2 * EPOCH - 1),  # in the half whose mean is the result
}
BROKEN = {"ddp": ("stopped", "most", "localizable", "by gradient"), "fsdp": ("most", "localizable", "by gradient")}


def core_of(base: Path, share: float) -> Mask:
    """Draw a mask: a share of every second tensor, and the whole of one."""
    checkpoint, generator = Checkpoint.open(base), np.random.default_rng(0)
    names = [name for name in checkpoint.parameters if checkpoint.spec(name).numel > 50]
    sizes = {name: checkpoint.spec(name).numel for name in names[::2]}
    indices = {name: generator.choice(n, int(share * n) + 1, replace=False) for name, n in sizes.items()}
    indices[names[1]] = np.arange(checkpoint.spec(names[1]).numel)
    return Mask.of({name: checkpoint.spec(name) for name in indices}, indices)


def train(
    folder: Path, name: str, out: Path, *, protect: bool = True, base: str = "base", **how: Any
) -> dict[str, Any]:
    """Train once; return the steps it took, and the accuracy after each epoch."""
    share, changes, _ = TRAININGS[name]
    task = Task.load(folder / "toy" / "task.yaml")
    core = [core_of(folder / "base", share)] if protect else []
    config = dataclasses.replace(task.spec.train, batch_size=16, **changes)
    result = train_task(folder / base, task, out, config=config, protect=core, **how)
    return {"steps": result.steps, "accuracies": [epoch.validation_accuracy for epoch in result.epochs]}


def train_all(folder: Path, out: Path, parallel: str) -> dict[str, Any]:
    """Run each training without and with an interruption; collective."""
    results = {name: train(folder, name, out / f"{name}-{parallel}", parallel=parallel) for name in TRAININGS}
    for name in BROKEN[parallel]:
        results[f"{name}-again"] = go_on(folder, name, out / f"{name}-{parallel}-again", parallel)
    return results


def go_on(folder: Path, name: str, out: Path, parallel: str, **how: Any) -> dict[str, Any]:
    """Interrupt a training and let it go on."""
    break_off(folder, name, out, parallel, **how)
    return train(folder, name, out, parallel=parallel, resume=True, **how)


def break_off(folder: Path, name: str, out: Path, parallel: str, **how: Any) -> None:
    """Interrupt a training by Ctrl-C in all processes, after the same number of steps."""
    steps, take = iter(range(TRAININGS[name][2])), Stepper.take

    def step(*arguments: Any) -> float:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return take(*arguments)

    Stepper.take = step  # type: ignore[assignment]
    try:
        train(folder, name, out, parallel=parallel, **how)
    except KeyboardInterrupt:
        return
    finally:
        Stepper.take = take  # type: ignore[method-assign]
    raise AssertionError(f"{name} was done before it could be broken off")
