"""Training confined to a mask, and training that makes its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.evaluate.evaluation import evaluate_task
from graft.localize.movement import diff_checkpoints
from graft.patch.mask import Mask
from graft.tasks.head import open_head
from graft.tasks.spec import LocalizableSpec, TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair
from graft.train.confinement import Confinement
from graft.train.fine_tuning import find_training, train_task
from graft.train.steps import Plan, Stepper
from tests.models import write_task

FEW = LocalizableSpec(density=0.05, pull_epochs=4, pull_l1=1e-4, lr=2e-2, epochs=6)


def draw_mask(base: Checkpoint, share: float = 0.1) -> Mask:
    """A share of some tensors, nothing of others."""
    generator = np.random.default_rng(0)
    names = [name for name in base.parameters if base.spec(name).numel > 50][::2]
    indices = {name: generator.choice(n := base.spec(name).numel, int(share * n) + 1, replace=False) for name in names}
    return Mask.of({name: base.spec(name) for name in names}, indices)


def changed_outside(base: Checkpoint, model: torch.nn.Module, mask: Mask) -> int:
    """Number of coordinates outside the mask whose bits are not the base's."""
    count = 0
    for name, weight in model.named_parameters():
        changed = (as_bits(weight.detach()) != as_bits(base.read(name))).flatten()
        changed[torch.tensor(mask[name])] = False
        count += int(changed.sum())
    return count


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("sgd", 0.1), ("adamw", 0.1)])
def test_only_the_mask_moves_whatever_the_optimizer(base: Path, task: Task, optimizer: Any, decay: float) -> None:
    checkpoint, config = Checkpoint.open(base), TrainSpec(optimizer, lr=1e-2, weight_decay=decay, steps=6)
    mask, examples = draw_mask(checkpoint), task.train_examples()
    free, confined = open_head(base, task.spec), open_head(base, task.spec)
    plan = Plan(len(examples), config, seed=0)
    for head, only in ((free, None), (confined, mask)):
        stepper = Stepper.start(head, plan, base, only)
        for step in range(6):
            stepper.take(examples[8 * step : 8 * step + 8], step)
    assert changed_outside(checkpoint, free.model, mask) > 1000  # the control
    assert changed_outside(checkpoint, confined.model, mask) == 0
    assert changed_outside(checkpoint, confined.model, Mask.of({}, {})) > 0.5 * len(mask)


def test_clipping_sees_the_gradients_of_the_mask_alone(base: Path, task: Task) -> None:
    head, checkpoint = open_head(base, task.spec), Checkpoint.open(base)
    for weight in head.model.parameters():
        weight.requires_grad_(True)
    mask = draw_mask(checkpoint)
    confinement = Confinement(head.model, checkpoint, mask)
    head.loss(task.train_examples()[:8]).backward()  # type: ignore[no-untyped-call]
    before = {name: weight.grad.clone() for name, weight in head.model.named_parameters() if weight.grad is not None}
    assert set(before) == set(mask)  # a tensor without an entry takes no gradient
    confinement.mask_gradients()
    for name, weight in head.model.named_parameters():
        if name in mask.indices:
            expected = torch.zeros(weight.numel())
            kept = torch.tensor(mask[name])
            expected[kept] = before[name].flatten()[kept]
            assert weight.grad is not None
            assert torch.equal(weight.grad.flatten(), expected)


def test_what_is_trained_localizably_differs_in_few_weights_and_has_learned(
    base: Path, task: Task, tmp_path: Path
) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=FEW)
    result = train_task(base, task, tmp_path / "few", config=config)
    n = Checkpoint.open(base).n_parameters
    patch = diff_checkpoints(base, result.path)
    assert 0 < len(patch) <= int(0.05 * n + 0.5)
    before, after = evaluate_task(base, task)["accuracy"], evaluate_task(result.path, task)["accuracy"]
    assert after > before + 0.1
    grafted = evaluate_task(base, task, patches=(patch,))
    assert grafted["accuracy"] == after  # the patch is the whole of it
    assert {path.name for path in tmp_path.iterdir()} == {"few"}


def test_a_training_is_known_again_by_how_it_was_made(base: Path, task: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=dataclasses.replace(FEW, epochs=1))
    train_task(base, task, tmp_path / "few", config=config)
    assert find_training(base, task, tmp_path / "few", config=config) is not None
    assert find_training(base, task, tmp_path / "few") is None


def test_an_interrupted_restart_ends_in_the_same_bits(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(task.spec.train, scope="all", localizable=dataclasses.replace(FEW, epochs=2))
    whole = train_task(base, task, tmp_path / "whole", config=config).path
    real, calls = Stepper.take, []

    def take(self: Stepper, *given: Any) -> float:
        calls.append(self.confinement is not None)
        if sum(calls) > self.plan.steps_per_epoch + 1:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", take)
        with pytest.raises(KeyboardInterrupt):
            train_task(base, task, tmp_path / "broken", config=config)
    assert not (tmp_path / "broken").exists()
    again = train_task(base, task, tmp_path / "broken", config=config, resume=True).path
    pair = CheckpointPair.open(whole, again)
    assert not any(pair.read_delta(name)[1].any() for name in pair.names)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken"}


def test_a_new_head_trains_as_a_whole(base: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "task", head={"kind": "classifier"}))
    config = dataclasses.replace(
        task.spec.train, scope="layers", epochs=1, localizable=dataclasses.replace(FEW, epochs=1)
    )
    out = train_task(base, task, tmp_path / "classifier", config=config).path
    pair = CheckpointPair.open(base, out)
    assert any("classifier" in name for name in pair.extra)
    assert len(diff_checkpoints(base, out, scope="layers")) <= int(0.05 * pair.base.n_parameters + 0.5)
