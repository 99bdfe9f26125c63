from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from graft.memory.train import plan_precisions, plan_training
from graft.patch.mask import Mask
from graft.specs.localizable import LocalizableSpec
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec
from graft.specs.runtime import Runtime
from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope
from graft.train.fine_tuning import train_task
from graft.train.protection.guard import protect
from graft.train.stepper import make_optimizer, set_trainable
from tests.models import write_bert


def sizes(
    base: Path,
    task: Task,
    config: TrainSpec,
    *,
    protect: Sequence[Mask] = (),
    unprotect: Sequence[Mask] = (),
    gradient_checkpointing: bool = False,
) -> dict[str, int | None]:
    runtime = Runtime("cpu", gradient_checkpointing=gradient_checkpointing)
    plan = plan_training(base, task, config, protect=protect, unprotect=unprotect, runtime=runtime)
    return {part.what: part.bytes for part in plan.parts}


def test_the_optimizers_state_is_that_of_a_real_step(task: Task, tmp_path: Path) -> None:
    from transformers import AutoModel

    base = write_bert(tmp_path / "base")
    config = TrainSpec(optimizer="adamw", lr=1e-3, scope="layers")
    model = AutoModel.from_pretrained(base)
    set_trainable(model, config)
    optimizer = make_optimizer(model, config)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight) if weight.requires_grad else None
    optimizer.step()
    state = [value for held in optimizer.state.values() for value in held.values() if value.numel() > 1]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    found = sizes(base, task, config)
    assert found["optimizer state"] == sum(value.nbytes for value in state)
    assert found["gradients"] == sum(gradient.nbytes for gradient in gradients)
    assert found["weights"] == 4 * Checkpoint.open(base).n_parameters
    assert "optimizer state" not in sizes(base, task, TrainSpec(scope="layers"))  # SGD has none
    assert "optimizer state" in sizes(base, task, TrainSpec(localizable=LocalizableSpec()))  # its second stage is AdamW


def test_checkpointing_takes_less(base: Path, task: Task) -> None:
    kept = [
        sizes(base, task, TrainSpec(), gradient_checkpointing=on)["activations, longest inputs"] for on in (False, True)
    ]
    assert (kept[1] or 0) < (kept[0] or 0)


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_what_protection_takes_is_what_it_holds(base: Path, task: Task, share: float) -> None:
    from transformers import AutoModel

    config = TrainSpec(optimizer="adamw", lr=1e-3, scope="layers")
    checkpoint, generator = Checkpoint.open(base), np.random.default_rng(0)
    specs = {name: checkpoint.spec(name) for name in Scope("layers").names(checkpoint)}
    mask = Mask.of(specs, {n: generator.permutation(s.numel)[: int(share * s.numel)] for n, s in specs.items()})
    model = AutoModel.from_pretrained(base)
    set_trainable(model, config)
    optimizer = make_optimizer(model, config)
    with protect(model, optimizer, mask) as protection:
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight) if weight.requires_grad else None
        optimizer.step()
        held = protection.nbytes
        state = sum(v.nbytes for kept in optimizer.state.values() for v in kept.values() if v.numel() > 1)
    found = sizes(base, task, config, protect=[mask])
    assert sum(size or 0 for what, size in found.items() if what.endswith("values and indices")) == held > 0
    assert found["optimizer state"] == state
    assert "protected values and indices" not in sizes(base, task, config, protect=[mask], unprotect=[mask])


def test_a_record_and_a_penalty_take_what_they_hold(base: Path, task: Task, tmp_path: Path) -> None:
    plain = TrainSpec(lr=1e-2, scope="layers", epochs=1)
    config = dataclasses.replace(plain, record=RecordSpec())
    n = sum(Checkpoint.open(base).spec(name).numel for name in Scope("layers").names(Checkpoint.open(base)))
    assert sizes(base, task, config)["record of importance"] == 8 * n
    train_task(base, task, tmp_path / "general", config=config)
    held = sizes(tmp_path / "general", task, dataclasses.replace(plain, regularize=RegularizeSpec()))["importance"]
    assert held is not None
    assert 0 < held <= 9 * n  # a byte each, and index and anchor where a tensor is not held as a whole
    assert "importance" not in sizes(base, task, plain)


def test_each_precision_takes_what_it_holds(base: Path, task: Task) -> None:
    config, n = TrainSpec(optimizer="adamw", lr=1e-3), Checkpoint.open(base).n_parameters
    plans = plan_precisions(base, task, config, runtime=Runtime("cpu", "bfloat16"))
    parts = {name: {part.what: part.bytes or 0 for part in plan.parts} for name, plan in plans.items()}
    held = ("weights", "rounded weights", "gradients", "optimizer state")
    assert {name: [part.get(what, 0) // n for what in held] for name, part in parts.items()} == {
        "mixed": [4, 2, 4, 8],
        "full": [4, 2, 4, 8],
        "pure": [2, 0, 2, 4],
    }
    assert plans["pure"].total("host") < plans["mixed"].total("host")
    assert list(plan_precisions(base, task, config, runtime=Runtime("cpu"))) == ["mixed"]  # fp32: all are the same
    few = dataclasses.replace(config, micro_batch_size=2)
    label = "activations, longest inputs"
    assert (sizes(base, task, few)[label] or 0) < (sizes(base, task, config)[label] or 0)
