from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from graft.errors import BudgetError
from graft.patch.mask import Mask
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import hash_values
from graft.train.importance.importance_weights import ImportanceWeights
from graft.train.importance.synaptic_intelligence import SynapticIntelligence, path_importance
from graft.train.penalty import Penalty
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper
from tests.checkpoints import write_single

X = torch.linspace(-1, 1, 40).outer(torch.tensor([1.0, -0.5, 2.0, 0.0]))
X = X + 0.3 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 1.0, 1.0, 0.0])
Y = X @ torch.tensor([1.0, 2.0, 0.0, 5.0])  # the last input is always 0: its weight cannot matter


def loss_of(model: torch.nn.Linear) -> torch.Tensor:
    return (model(X).squeeze(1) - Y).square().mean()


def descend(
    folder: Path,
    lr: float,
    steps: int,
    every: int = 1,
    clip: float = torch.inf,
    momentum: float = 0.0,
    penalize: Callable[[torch.nn.Module, Checkpoint], Penalty] = lambda *_: Penalty([]),
) -> tuple[SynapticIntelligence, float]:
    """A recorded descent of the whole batch, and by how much the loss fell."""
    model = torch.nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.1)
    if not folder.exists():
        write_single(folder, {"weight": model.weight.detach().clone()})
    penalty = penalize(model, Checkpoint.open(folder))
    recorder = SynapticIntelligence(model, Checkpoint.open(folder), every, penalty.added_gradients)
    optimizer, start = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum), loss_of(model).item()
    for step in range(steps):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        recorder.before_step(step)
        penalty.before_step()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        penalty.after_step(lr, optimizer)
        recorder.record(step, min(1.0, clip / (float(norm) + 1e-6)))
        optimizer.zero_grad()
    return recorder, start - loss_of(model).item()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("clip", [torch.inf, 0.5])
def test_omega_sums_to_the_fall_of_the_loss(tmp_path: Path, momentum: float, clip: float) -> None:
    """To first order in the rate, whatever made the steps; clipping shrinks the step and not the gradient."""
    errors = []
    for lr, steps in ((2e-2, 100), (2e-3, 1000)):
        recorder, fell = descend(tmp_path / "base", lr, steps, clip=clip, momentum=momentum)
        errors.append(abs(float(recorder.omega["weight"].sum()) / fell - 1))
    assert errors[1] < 0.02
    assert errors[1] < 0.3 * errors[0]


def to_base(step: Literal["gradient", "proximal"]) -> Callable[..., Penalty]:
    return lambda model, base: Penalty.to_base(model, base, RegularizeSpec(strength=0.5, step=step))


def of_some(model: torch.nn.Module, base: Checkpoint) -> Penalty:
    """On two of the four weights."""
    mask = Mask.of({"weight": base.spec("weight")}, {"weight": [0, 2]})
    values = base.read("weight").flatten()[[0, 2]]
    importance = ImportanceWeights(
        mask, {"weight": torch.tensor([1.0, 3.0])}, 1.0, {"weight": hash_values(values)}, "path"
    )
    return Penalty.of(model, base, importance, RegularizeSpec(strength=0.5, layers="none"))


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("clip", [torch.inf, 0.5])
@pytest.mark.parametrize("penalize", [to_base("gradient"), to_base("proximal"), of_some])
def test_a_penaltys_gradient_is_not_the_losss(tmp_path: Path, penalize: Any, clip: float, every: int) -> None:
    recorder, fell = descend(tmp_path / "base", 2e-3, 1000, every, clip, penalize=penalize)
    assert float(recorder.omega["weight"].sum()) == pytest.approx(fell, rel=0.06)
    _, whole = descend(tmp_path / "base", 2e-3, 1000, every, clip)
    assert fell < 0.9 * whole  # the control: the penalty holds weights back


def test_a_training_records_the_fall_of_the_loss_beside_a_penalty(base: Path, task: Task) -> None:
    examples, penalty = task.train_examples()[:32], RegularizeSpec(importance="uniform", strength=5.0)
    settings: dict[str, Any] = {"lr": 0.02, "steps": 30, "clip": 1e9, "dropout": False, "schedule": "constant"}
    falls = []
    for regularize in (None, penalty):
        config = TrainSpec(batch_size=32, scope="layers", record=RecordSpec(), regularize=regularize, **settings)
        head = open_head(base, task.spec)
        stepper = Stepper.start(head, TrainingSchedule((32,), config, seed=0), base)
        losses = [stepper.take(head, examples, step) for step in range(30)]
        assert stepper.recorder is not None
        recorded = sum(float(omega.sum()) for omega in stepper.recorder.omega.values())
        with head.evaluating():
            falls.append(losses[0] - float(head.loss(examples)))
        assert recorded == pytest.approx(falls[-1], rel=0.1)
    assert falls[1] < 0.8 * falls[0]  # the control: the penalty holds weights back


def test_recording_every_few_steps_comes_near_to_every_step(tmp_path: Path) -> None:
    whole, _ = descend(tmp_path / "base", 1e-3, 1000)
    sparse, _ = descend(tmp_path / "base", 1e-3, 1000, every=10)
    torch.testing.assert_close(sparse.omega["weight"], whole.omega["weight"], rtol=0.1, atol=1e-3)


def test_a_weight_that_cannot_matter_has_no_importance_and_is_not_kept(tmp_path: Path) -> None:
    recorder, _ = descend(tmp_path / "base", 2e-2, 100)
    scores = recorder.scores(1.0)["weight"]()
    assert (scores[:2] > 0).all()
    assert scores[3] == 0
    kept = recorder.keep(1.0, 1.0)
    assert 3 not in kept.mask["weight"]
    now = recorder.weights["weight"].values.flatten()
    assert kept.hashes["weight"] == hash_values(now[torch.tensor(kept.mask["weight"])])


def test_importance_is_the_curvature_of_a_parabola_and_never_negative() -> None:
    omega, delta = torch.tensor([0.5, -0.5, 0.0]), torch.tensor([2.0, 1.0, 0.0])
    assert path_importance(omega, delta, 1.0).tolist() == pytest.approx([0.1, 0.0, 0.0])
    assert path_importance(omega, delta, 1e-12)[0].item() == pytest.approx(0.125)


def test_xi_is_in_units_of_the_mean_squared_movement(tmp_path: Path) -> None:
    recorder, _ = descend(tmp_path / "base", 2e-2, 100)
    delta = recorder.weights["weight"].values.flatten() - 0.1
    expected = path_importance(recorder.omega["weight"].flatten(), delta, 0.5 * float(delta.square().mean()))
    torch.testing.assert_close(recorder.scores(0.5)["weight"](), expected)


def test_where_nothing_moved_there_is_nothing_to_keep(tmp_path: Path) -> None:
    recorder, _ = descend(tmp_path / "base", 0.0, 3)
    with pytest.raises(BudgetError, match="by path no weight matters"):
        recorder.keep(0.1, 1.0)


def test_bf16_weights_are_recorded_in_fp32(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1, bias=False).bfloat16()
    write_single(tmp_path / "base", {"weight": model.weight.detach().clone()})
    recorder = SynapticIntelligence(model, Checkpoint.open(tmp_path / "base"))
    model.weight.grad = torch.tensor([[1.0, 2.0, 0.5]]).bfloat16()
    before = model.weight.detach().float()
    with torch.no_grad():
        model.weight.sub_(model.weight.grad)
    recorder.record(0, 1.0)
    expected = -model.weight.grad.float() * (model.weight.detach().float() - before)
    torch.testing.assert_close(recorder.omega["weight"], expected, rtol=1e-2, atol=1e-2)
    assert recorder.omega["weight"].dtype == torch.float32
