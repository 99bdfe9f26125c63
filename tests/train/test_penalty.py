from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import CheckpointError, ConfigError, MismatchError
from graft.scores.table import ScoreTable
from graft.specs.localizable import LocalizableSpec
from graft.specs.record import RecordSpec
from graft.specs.regularize import STRENGTH, RegularizeSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import layer_of
from graft.train.fine_tuning import train_task
from graft.train.importance.importance_file import FILE, save_importance
from graft.train.importance.importance_weights import ImportanceWeights, keep_importance
from graft.train.penalty import Penalty, penalty_coefficients, softmax_coefficients
from tests.checkpoints import bits_of, model_of, sample_tensors, write_single

ANCHORS = sample_tensors()


def table_of(scores: dict[str, torch.Tensor]) -> ScoreTable:
    return {name: values.flatten().clone for name, values in scores.items()}


def held_at(tensors: dict[str, torch.Tensor], share: float = 0.4) -> ImportanceWeights:
    generator = torch.Generator().manual_seed(3)
    scores = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    return keep_importance(table_of(scores), tensors, share, "made up")


@pytest.fixture
def base_file(tmp_path: Path) -> Checkpoint:
    """The anchors on disk."""
    return Checkpoint.open(write_single(tmp_path / "anchors", sample_tensors()))


def moved_model() -> torch.nn.Module:
    """A model away from its anchors, with gradients of 0 for the penalty to be added to."""
    model = model_of({name: tensor + 0.5 * i for i, (name, tensor) in enumerate(sample_tensors().items(), start=1)})
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    return model


def penalty_by_definition(model: torch.nn.Module, held: ImportanceWeights, config: RegularizeSpec) -> torch.Tensor:
    """phi * sum_l c_l sum_i Omega_i (theta_i - theta*_i)^2, written out for autograd."""
    factors, total = penalty_coefficients(held, config), torch.zeros(())
    weights = dict(model.named_parameters())
    for name in held.mask:
        kept, anchors = (tensor.flatten()[torch.tensor(held.mask[name])] for tensor in (weights[name], ANCHORS[name]))
        total = total + factors[name] * (held.omega_of(name) * (kept - anchors).square()).sum()
    return total


@pytest.mark.parametrize("layers", ["normalized", "plain", "none"])
@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_the_analytic_gradient_is_that_of_autograd(layers: Any, share: float, base_file: Checkpoint) -> None:
    model, held = moved_model(), held_at(sample_tensors(), share)
    config = RegularizeSpec(strength=0.3, layers=layers)
    Penalty.of(model, base_file, held, config).before_step()
    expected = torch.autograd.grad(
        penalty_by_definition(model, held, config), list(model.parameters()), allow_unused=True
    )
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, torch.zeros_like(weight) if gradient is None else gradient)


def test_the_penalty_is_added_to_the_gradient_that_is_there(base_file: Checkpoint) -> None:
    model = moved_model()
    bare = Penalty.of(model, base_file, held_at(sample_tensors()), RegularizeSpec())
    bare.before_step()
    alone = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    bare.before_step()
    for weight, penalty in zip(model.parameters(), alone, strict=True):
        torch.testing.assert_close(weight.grad, penalty + 1)


def test_a_weight_outside_the_mask_is_free_and_one_at_its_anchor_feels_nothing(base_file: Checkpoint) -> None:
    tensors = sample_tensors()
    model, held = model_of({name: tensor.clone() for name, tensor in tensors.items()}), held_at(tensors)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    Penalty.of(model, base_file, held, RegularizeSpec(strength=10.0)).before_step()
    assert not any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_without_both_parts_it_is_l2_with_the_mean_importance(base_file: Checkpoint) -> None:
    tensors = sample_tensors()
    held = held_at(tensors, 1.0)
    ablated, plain = moved_model(), moved_model()
    Penalty.of(ablated, base_file, held, RegularizeSpec(strength=0.2, layers="none", elements=False)).before_step()
    every = torch.cat([held.omega_of(name) for name in held.mask])
    Penalty.to_base(plain, base_file, RegularizeSpec(strength=0.2 * float(every.mean()))).before_step()
    for left, right in zip(ablated.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_without_the_layers_it_is_ewc(base_file: Checkpoint) -> None:
    """The gradient of lambda / 2 * sum F (theta - theta*)^2 is lambda * F * (theta - theta*); phi is lambda / 2."""
    tensors, model = sample_tensors(), moved_model()
    held = held_at(tensors, 1.0)
    Penalty.of(model, base_file, held, RegularizeSpec(strength=0.5, layers="none")).before_step()
    for name, weight in model.named_parameters():
        fisher = held.omega_of(name).view(weight.shape)
        torch.testing.assert_close(weight.grad, fisher * (weight.detach() - tensors[name]))


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("adam", [False, True])
def test_the_proximal_step_minimizes_distance_plus_penalty(share: float, adam: bool, base_file: Checkpoint) -> None:
    """In the optimizer's metric: its gradient, s * (theta' - theta) / rate + 2 phi c Omega (theta' - theta*), is 0."""
    tensors, model, held = sample_tensors(), moved_model(), held_at(sample_tensors(), share)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 0.25)
    kind = torch.optim.AdamW if adam else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.1)
    optimizer.step()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config, rate = RegularizeSpec(strength=40.0, step="proximal"), 0.1
    Penalty.of(model, base_file, held, config).after_step(rate, optimizer)
    factors = penalty_coefficients(held, config)
    for name, weight in model.named_parameters():
        at, scale = torch.tensor(held.mask[name]), 0.25 if adam else 1.0
        free = torch.ones(weight.numel(), dtype=torch.bool).index_fill(0, at, value=False)
        assert torch.equal(weight.flatten()[free], before[name].flatten()[free])
        now, then = (tensor.detach().flatten()[at] for tensor in (weight, before[name]))
        hold = 2 * factors.get(name, 0.0) * (held.omega_of(name) if name in held.mask.specs else torch.empty(0))
        slope = scale * (now - then) / rate + hold * (now - tensors[name].flatten()[at])
        assert (slope.abs() <= 1e-4 * (1 + hold)).all()


def test_layer_coefficients_follow_the_norms_and_have_mean_one() -> None:
    norms = torch.tensor([1e-6, 2e-6, 4e-6], dtype=torch.float64)
    for how in ("normalized", "plain", "none"):
        assert float(softmax_coefficients(norms, how).mean()) == pytest.approx(1)
    found = softmax_coefficients(norms, "normalized")
    torch.testing.assert_close(found, softmax_coefficients(1e9 * norms, "normalized"))  # whatever the scale
    assert found[0] < found[1] < found[2]
    assert float(found[2] / found[0]) == pytest.approx(2.718281828**0.75)
    torch.testing.assert_close(
        softmax_coefficients(norms, "plain"), torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert float(softmax_coefficients(1e9 * norms, "plain")[2]) == pytest.approx(3)


def test_all_tensors_of_a_layer_share_its_coefficient() -> None:
    factors = penalty_coefficients(held_at(sample_tensors()), RegularizeSpec(strength=2.0))
    by_layer: dict[str, set[float]] = {}
    for name, factor in factors.items():
        by_layer.setdefault(layer_of(name), set()).add(factor)
    assert len(by_layer) == 4
    assert all(len(found) == 1 for found in by_layer.values())


def test_another_models_importance_is_refused(base_file: Checkpoint, tmp_path: Path) -> None:
    held, tensors = held_at(sample_tensors()), sample_tensors()
    with pytest.raises(MismatchError, match="holds no tensor that trains"):
        Penalty.of(model_of({"other.w": torch.zeros(3)}), base_file, held, RegularizeSpec())
    for change, fact in (
        (tensors["head.w"].T.contiguous(), r"'head\.w' is F32\[2, 5\] in the importance file and F32\[5, 2\]"),
        (-tensors["head.w"], r"'head\.w': the importance file belongs to other weights than the base's"),
    ):
        other = tensors | {"head.w": change}
        base = Checkpoint.open(write_single(tmp_path / str(change.shape[0]), other))
        with pytest.raises(MismatchError, match=fact):
            Penalty.of(model_of(other), base, held, RegularizeSpec())


@pytest.fixture(scope="module")
def general(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy base tuned on its task with a record."""
    task = Task.load(shelf / "toy" / "task.yaml")
    config = dataclasses.replace(task.spec.train, record=RecordSpec())
    return train_task(shelf / "base", task, tmp_path_factory.mktemp("general") / "tuned", config=config).path


def tune(base: Path, task: Task, out: Path, regularize: RegularizeSpec | None, **more: Any) -> Path:
    config = dataclasses.replace(task.spec.train, epochs=2, regularize=regularize)
    return train_task(base, task, out, config=config, **more).path


def distance(base: Path, tuned: Path, held: ImportanceWeights | None = None) -> float:
    pair, total = CheckpointPair.open(base, tuned), 0.0
    for name in pair.names:
        delta, _ = pair.read_delta(name)
        total += float((delta if held is None else delta[torch.tensor(held.mask[name])]).square().sum())
    return total


def weights_of(folder: Path) -> dict[str, bytes]:
    checkpoint = Checkpoint.open(folder)
    return bits_of({name: checkpoint.read(name) for name in checkpoint.names})


def test_a_strength_of_0_is_plain_training_bit_for_bit(general: Path, task: Task, tmp_path: Path) -> None:
    plain = tune(general, task, tmp_path / "plain", None)
    assert weights_of(tune(general, task, tmp_path / "none", RegularizeSpec(strength=0.0))) == weights_of(plain)
    held = tune(general, task, tmp_path / "held", RegularizeSpec())
    assert weights_of(held) != weights_of(plain)  # the control: a strength changes what is learned


def test_the_stronger_the_less_of_what_matters_moves(general: Path, task: Task, tmp_path: Path) -> None:
    from graft.train.importance.importance_file import load_importance

    held = load_importance(general / FILE)
    specs = [RegularizeSpec(strength=phi, step="proximal") for phi in (0.0, 0.5, 50.0)]
    runs = [tune(general, task, tmp_path / f"{spec.strength}", spec) for spec in specs]
    moved = [distance(general, run, held) for run in runs]
    assert moved[0] > 2 * moved[1] > 4 * moved[2]
    along = tune(general, task, tmp_path / "gradient", RegularizeSpec())
    assert distance(general, along, held) < 0.7 * moved[0]
    uniform = tune(general, task, tmp_path / "l2", RegularizeSpec(importance="uniform", strength=0.5))
    assert distance(general, uniform) < 0.7 * distance(general, runs[0])


def test_an_interrupted_training_goes_on_with_penalty_and_record(
    general: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.train.stepper import Stepper

    config = dataclasses.replace(task.spec.train, epochs=3, regularize=RegularizeSpec(), record=RecordSpec(every=3))
    whole = train_task(general, task, tmp_path / "whole", config=config).path
    take, calls = Stepper.take, 0

    def break_off(self: Stepper, *given: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 40:  # 16 steps an epoch
            raise KeyboardInterrupt
        return take(self, *given)

    monkeypatch.setattr(Stepper, "take", break_off)
    with pytest.raises(KeyboardInterrupt):
        train_task(general, task, tmp_path / "parts", config=config)
    monkeypatch.setattr(Stepper, "take", take)
    parts = train_task(general, task, tmp_path / "parts", config=config, resume=True).path
    assert calls == 40
    assert weights_of(parts) == weights_of(whole)
    assert (parts / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_what_is_missing_or_contradicts_itself_is_refused_before_training(
    base: Path, task: Task, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no such file of importance; make one by `graft train --record`"):
        tune(base, task, tmp_path / "a", RegularizeSpec())
    with pytest.raises(CheckpointError, match="not a file of importance"):
        tune(base, task, tmp_path / "b", RegularizeSpec(importance=str(base / "model.safetensors")))
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        RegularizeSpec(strength=-1.0)
    with pytest.raises(ValueError, match="goes with neither record nor regularize"):
        dataclasses.replace(task.spec.train, localizable=LocalizableSpec(), record=RecordSpec())
    assert not (tmp_path / "a").exists()
    assert pytest.approx(0.0498, abs=1e-4) == STRENGTH


def test_a_training_is_found_again_by_the_content_of_the_file_of_importance(
    general: Path, task: Task, tmp_path: Path
) -> None:
    from graft.train.fine_tuning import find_training
    from graft.train.importance.importance_file import load_importance

    held = load_importance(general / FILE)
    save_importance(held, tmp_path / "here.safetensors")
    regularize = RegularizeSpec(importance=str(tmp_path / "here.safetensors"))
    out = tune(general, task, tmp_path / "out", regularize)
    assert str(tmp_path) not in (out / "graft_training.json").read_text()
    config = dataclasses.replace(task.spec.train, epochs=2, regularize=regularize)
    assert find_training(general, task, out, config=config) is not None
    save_importance(dataclasses.replace(held, scale=2 * held.scale), tmp_path / "here.safetensors", force=True)
    assert find_training(general, task, out, config=config) is None


def test_an_unknown_key_of_the_block_names_the_allowed_ones(task_file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'strenght' \(did you mean 'strength'\?\); allowed are importance"
    ):
        Task.load(task_file, ("train.regularize.strenght=1",))
