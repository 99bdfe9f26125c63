from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.scores.offsets import fit_class_offsets


def logits_and_labels(seed: int, n: int = 60, n_labels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_labels
    logits = torch.randn(n, n_labels, generator=generator) + torch.nn.functional.one_hot(labels, n_labels)
    return logits, labels


@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), lean=st.floats(-8, 8))
def test_offsets_make_the_mean_prediction_the_class_frequencies(seed: int, lean: float) -> None:
    logits, labels = logits_and_labels(seed)
    logits[:, 0] += lean
    before = logits.softmax(-1).mean(0)
    after = (logits + fit_class_offsets(logits, labels)).softmax(-1).mean(0)
    if abs(lean) > 2:  # the control: the lean is there before
        assert abs(before[0] - 1 / 3) > 0.05
    # the gradient of the loss in b is mean probability - class frequency, up to the ridge
    assert torch.allclose(after, torch.full((3,), 1 / 3), atol=3e-3)


def test_a_lean_is_undone_whatever_its_size() -> None:
    logits, labels = logits_and_labels(0)
    leaning = logits + torch.tensor([4.0, 0.0, -2.0])
    corrected, expected = (z + fit_class_offsets(z, labels) for z in (leaning, logits))
    assert not torch.allclose(leaning.softmax(-1), logits.softmax(-1), atol=0.05)
    assert torch.allclose(corrected.softmax(-1), expected.softmax(-1), atol=5e-3)


def test_offsets_stay_finite_where_the_classes_are_told_apart_perfectly() -> None:
    labels = torch.tensor([0, 1])
    offsets = fit_class_offsets(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]), labels)
    assert torch.isfinite(offsets).all()
    assert offsets.abs().max() < 1


def test_the_gradient_of_the_minimum_is_that_at_the_minimizer() -> None:
    logits, labels = logits_and_labels(1)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))

    def minimum(step: float) -> float:
        moved = logits + step * direction
        return float(torch.nn.functional.cross_entropy(moved + fit_class_offsets(moved, labels), labels))

    moving = logits.clone().requires_grad_()
    torch.nn.functional.cross_entropy(moving + fit_class_offsets(logits, labels), labels).backward()
    assert moving.grad is not None
    slope = float((moving.grad * direction).sum())
    assert (minimum(0.01) - minimum(-0.01)) / 0.02 == pytest.approx(slope, rel=0.02)
