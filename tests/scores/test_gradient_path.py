from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from graft.errors import CheckpointError, PatchMismatchError
from graft.scores.gradient_path import GradientPath, path_point
from graft.scores.inputs import ScoreInput
from graft.scores.offsets import fit_class_offsets
from graft.scores.registry import SCORES
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.dtypes import as_bits, same_bits
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import bits_of
from tests.models import copy_with

ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)


def tensors(dtype: torch.dtype, n: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a usual size, and the same after a change of one step of the dtype."""
    base = (0.05 * torch.randn(n, generator=torch.Generator().manual_seed(0))).to(dtype)
    return base, (as_bits(base) + 1).view(dtype)


def progress(point: torch.Tensor, base: torch.Tensor, tuned: torch.Tensor) -> float:
    """Mean share of the way from base to tuned."""
    way = (tuned.double() - base.double()).abs()
    return float(((point.double() - base.double()).abs() / way).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_ends_of_the_path_are_exact(dtype: torch.dtype) -> None:
    base, tuned = tensors(dtype)
    assert same_bits(path_point(base, tuned, 0.0, "key"), base)
    assert same_bits(path_point(base, tuned, 1.0, "key"), tuned)


def test_in_single_precision_the_path_is_a_straight_line() -> None:
    base, tuned = torch.randn(1000), torch.randn(1000)
    for alpha in ALPHAS:
        assert torch.allclose(path_point(base, tuned, alpha, "key"), base + alpha * (tuned - base), atol=1e-6)


def test_in_low_precision_each_entry_is_tuned_with_the_probability_of_the_point() -> None:
    base, tuned = tensors(torch.bfloat16)
    # the control: rounding a straight line puts most points of such a small change back where they came from
    assert progress(torch.lerp(base, tuned, 0.25), base, tuned) < 0.05
    assert progress(torch.lerp(base, tuned, 0.9), base, tuned) > 0.99
    for alpha in ALPHAS:
        assert progress(path_point(base, tuned, alpha, "key"), base, tuned) == pytest.approx(alpha, abs=0.02)


def test_in_low_precision_the_path_is_monotone_and_given_by_its_key() -> None:
    base, tuned = tensors(torch.bfloat16)
    moved = torch.zeros(len(base), dtype=torch.bool)
    for alpha in ALPHAS:
        now = as_bits(path_point(base, tuned, alpha, "key")) == as_bits(tuned)
        assert bool((now | ~moved).all())  # what was moved stays moved
        moved = now
    half, again, other = (path_point(base, tuned, 0.5, key) for key in ("key", "key", "other"))
    assert same_bits(half, again)
    assert not same_bits(half, other)


def open_path(base: Path, tuned: Path, task: Task, dtype: str = "auto", class_debias: bool = True) -> GradientPath:
    pair = CheckpointPair.open(base, tuned)
    names = [name for name in pair.names if "layer" in name]
    head = open_head(base, task.spec, runtime=Runtime(dtype=dtype))
    return GradientPath(head, pair, names, task.train_examples(), batch_size=50, class_debias=class_debias)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_live_model_walks_the_path_and_comes_back_bit_for_bit(
    dtype: str, base: Path, tuned: Path, task: Task
) -> None:
    path = open_path(base, tuned, task, dtype)
    before = bits_of(path.head.model)
    name = "encoder.layer.1.output.dense.weight"
    ends = [tensor.to(path.weights[name].dtype) for tensor in path.pair.read(name)]
    path.move_to(0.25)
    between = path.weights[name].detach().clone()
    assert same_bits(between, path_point(*ends, 0.25, f"0\0{name}"))
    changed = as_bits(ends[0]) != as_bits(ends[1])
    assert progress(between[changed], ends[0][changed], ends[1][changed]) == pytest.approx(0.25, abs=0.03)
    path.return_to_base()
    assert bits_of(path.head.model) == before


@pytest.mark.parametrize("class_debias", [False, True])
def test_gradients_are_those_of_the_mean_loss(class_debias: bool, base: Path, tuned: Path, task: Task) -> None:
    path = open_path(base, tuned, task, class_debias=class_debias)
    found = path.gradients_at(0.0)
    path.head.model.requires_grad_(True)
    logits = path.head.logits(path.examples)
    labels = torch.tensor([example.label for example in path.examples])
    offsets = fit_class_offsets(logits.detach(), labels)
    assert offsets.abs().max() > 0.1  # the base leans, so that the two losses differ
    torch.nn.functional.cross_entropy(logits + offsets if class_debias else logits, labels).backward()
    for name, gradient in found.items():
        live = path.weights[name].grad
        assert gradient.dtype == torch.float32
        assert torch.allclose(gradient, live.flatten() if live is not None else torch.zeros(()), atol=1e-5)
    assert sum(float(gradient.norm()) for gradient in found.values()) > 0.1


@pytest.mark.parametrize("method", ["attribution", "taylor"])
def test_attribution_leaves_the_model_as_it_was(method: str, base: Path, tuned: Path, task: Task) -> None:
    path = open_path(base, tuned, task)
    before = bits_of(path.head.model)
    SCORES[method].load()(ScoreInput(path.pair, tuple(path.weights), points=2, path=path))
    assert bits_of(path.head.model) == before


def test_a_loss_that_is_not_finite_is_refused(base: Path, task: Task, tmp_path: Path) -> None:
    huge = copy_with(base, tmp_path / "huge", lambda name, w: w.mul_(1e30) if "layer.0" in name else None)
    path = open_path(base, huge, task)
    assert path.gradients_at(0.0)
    with pytest.raises(CheckpointError, match=r"the loss is nan at 0.50 of the way from base to tuned"):
        path.gradients_at(0.5)


def test_a_tensor_that_the_model_lacks_is_refused(base: Path, tuned: Path, task: Task) -> None:
    pair, head = CheckpointPair.open(base, tuned), open_head(base, task.spec)
    with pytest.raises(PatchMismatchError, match=r"tensor 'lm_head.weight' is in scope, but the task's model does not"):
        GradientPath(head, pair, ["lm_head.weight"], task.train_examples())


def test_drawn_labels_do_not_depend_on_their_order_in_the_task(base: Path, tuned: Path, task: Task) -> None:
    pair, examples = CheckpointPair.open(base, tuned), task.train_examples()[:40]
    drawn = []
    for step in (1, -1):
        head = dataclasses.replace(task.spec.head, texts=task.spec.head.texts[::step])
        spec = dataclasses.replace(task.spec, labels=task.spec.labels[::step], head=head)
        path = GradientPath(open_head(base, spec), pair, pair.base.parameters, examples, class_debias=False)
        drawn.append([spec.labels[example.label] for example in path._with_drawn_labels()])
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == set(task.spec.labels)
