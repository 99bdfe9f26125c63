from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import train_task
from graft.train.l1_proximal import L1Proximal
from tests.checkpoints import write_single


@settings(derandomize=True, deadline=None, max_examples=60)
@given(moved=st.floats(-2, 2, width=32), threshold=st.floats(0.0009765625, 1, width=32))
def test_the_proximal_step_minimizes_distance_plus_the_l1_norm(
    tmp_path_factory: object, moved: float, threshold: float
) -> None:
    model, base = torch.nn.Linear(1, 1, bias=False), torch.tensor([[0.5]])
    folder = Path(tmp_path_factory.mktemp("pull")) / "base"  # type: ignore[attr-defined]
    write_single(folder, {"weight": base})
    with torch.no_grad():
        model.weight.copy_(base + moved)
    start = model.weight.item()
    L1Proximal(model, Checkpoint.open(folder)).step(threshold)

    def cost(w: float) -> float:
        return (w - start) ** 2 / 2 + threshold * abs(w - 0.5)

    reached = model.weight.item()
    grid = [0.5 + step / 500 for step in range(-1500, 1501)]
    assert cost(reached) <= min(map(cost, grid)) + 1e-5


def test_weights_that_hardly_matter_stay_the_bases_bits(base: Path, task: Task, tmp_path: Path) -> None:
    def moved(l1: float) -> tuple[int, int, float]:
        config = dataclasses.replace(task.spec.train, l1=l1)
        result = train_task(base, task, tmp_path / f"l1-{l1}", config=config)
        pair = CheckpointPair.open(base, result.path)
        reads = [pair.read(name) for name in pair.names]
        changed = sum(int((as_bits(a) != as_bits(b)).sum()) for a, b in reads)
        return changed, sum(a.numel() for a, _ in reads), result.epochs[-1].validation_accuracy

    plain, total, accuracy = moved(0.0)
    pulled, _, still = moved(3e-3)
    assert plain > 0.5 * total  # the control: without it nearly every weight moves
    assert 0 < pulled < 0.5 * plain
    assert still >= accuracy - 0.1


def test_minus_zero_in_the_base_survives(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    write_single(tmp_path / "base", {"weight": torch.tensor([[-0.0, 1.0]])})
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-4, 3.0]]))
    L1Proximal(model, Checkpoint.open(tmp_path / "base")).step(0.5)
    assert model.weight.tolist() == [[0.0, 2.5]]
    assert torch.signbit(model.weight[0, 0])


def test_a_head_that_the_base_lacks_is_not_pulled(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(1, 1, bias=False), "head": torch.nn.Linear(1, 1, bias=False)})
    write_single(tmp_path / "base", {"body.weight": torch.zeros(1, 1)})
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.25)
    L1Proximal(model, Checkpoint.open(tmp_path / "base")).step(1.0)
    assert [weight.item() for weight in model.parameters()] == [0.0, 0.25]


def test_the_pull_is_taken_in_the_metric_of_adamw(tmp_path: Path) -> None:
    base = torch.zeros(1, 2)
    write_single(tmp_path / "base", {"weight": base})
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.weight.grad = torch.tensor([[1.0, 0.01]])
    optimizer.step()  # second moments of 1 and .0001
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.5]]))
    L1Proximal(model, Checkpoint.open(tmp_path / "base")).step(0.001, optimizer)
    assert torch.allclose(model.weight, torch.tensor([[0.5 - 0.001, 0.5 - 0.1]]), atol=1e-5)
