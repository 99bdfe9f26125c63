"""What `train_task` protects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.patch.mask import Mask
from graft.tasks.head import open_head
from graft.tasks.spec import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits
from graft.train.fine_tuning import train_task
from graft.train.protection.core import Core
from graft.train.steps import Plan, Stepper


def draw_mask(base: Checkpoint, share: float = 0.1, seed: int = 0) -> Mask:
    """A share of some tensors, nothing of others."""
    generator = np.random.default_rng(seed)
    names = [name for name in base.parameters if base.spec(name).numel > 50][::2]
    indices = {name: generator.choice(n := base.spec(name).numel, int(share * n) + 1, replace=False) for name in names}
    return Mask.of({name: base.spec(name) for name in names}, indices)


def changed_at(base: Checkpoint, tensors: Any, mask: Mask, *, outside: bool = False) -> int:
    """Number of coordinates at (or outside) a mask whose bits are not the base's."""
    count = 0
    for name, tensor in tensors:
        changed = (as_bits(tensor.detach()) != as_bits(base.read(name))).flatten()
        at = torch.zeros_like(changed)
        at[torch.tensor(mask[name])] = True
        count += int((changed & (at ^ outside)).sum())
    return count


def tensors_of(folder: Path) -> list[tuple[str, torch.Tensor]]:
    checkpoint = Checkpoint.open(folder)
    return [(name, checkpoint.read(name)) for name in checkpoint.parameters]


@pytest.mark.parametrize(
    ("share", "changes"),
    [
        (0.001, {}),
        (0.4, {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1}),
        (0.95, {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1}),
        (0.95, {"l1": 1e-4}),
    ],
)
def test_a_masks_coordinates_keep_their_bits(
    share: float, changes: dict[str, Any], base: Path, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint.open(base)
    mask, config = draw_mask(checkpoint, share), dataclasses.replace(task.spec.train, epochs=1, **changes)
    free = train_task(base, task, tmp_path / "free", config=config).path
    assert changed_at(checkpoint, tensors_of(free), mask) > 0.4 * len(mask)  # the control
    capsys.readouterr()
    kept = train_task(base, task, tmp_path / "kept", config=config, protect=[mask]).path
    assert changed_at(checkpoint, tensors_of(kept), mask) == 0
    assert changed_at(checkpoint, tensors_of(kept), mask, outside=True) > 1000
    assert f"protected: {len(mask):,} entries (" in capsys.readouterr().err


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("sgd", 0.1), ("adamw", 0.1)])
def test_only_the_mask_moves_whatever_the_optimizer(base: Path, task: Task, optimizer: Any, decay: float) -> None:
    checkpoint, config = Checkpoint.open(base), TrainSpec(optimizer, lr=1e-2, weight_decay=decay, steps=6)
    mask, examples = draw_mask(checkpoint), task.train_examples()
    free, confined = open_head(base, task.spec), open_head(base, task.spec)
    plan = Plan(len(examples), config, seed=0)
    for head, core in ((free, None), (confined, Core(only=mask, names=checkpoint.names))):
        stepper = Stepper.start(head, plan, base, core)
        for step in range(6):
            stepper.take(examples[8 * step : 8 * step + 8], step)
    assert changed_at(checkpoint, free.model.named_parameters(), mask, outside=True) > 1000  # the control
    assert changed_at(checkpoint, confined.model.named_parameters(), mask, outside=True) == 0
    assert changed_at(checkpoint, confined.model.named_parameters(), mask) > 0.5 * len(mask)
