from __future__ import annotations

from pathlib import Path

import torch

from graft.tasks.spec import LocalizableSpec, TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.planning import plan_training
from graft.train.steps import choose_trained, make_optimizer
from tests.models import write_bert


def sizes(base: Path, task: Task, config: TrainSpec, **more: object) -> dict[str, int | None]:
    return {part.what: part.bytes for part in plan_training(base, task, config, device="cpu", **more).parts}  # type: ignore[arg-type]


def test_the_optimizers_state_is_that_of_a_real_step(task: Task, tmp_path: Path) -> None:
    from transformers import AutoModel

    base = write_bert(tmp_path / "base")
    config = TrainSpec(optimizer="adamw", lr=1e-3, scope="layers")
    model = AutoModel.from_pretrained(base)
    choose_trained(model, config)
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
