"""The published procedure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.errors import BudgetError, ConfigError
from graft.localize.learner.published import CUT, RelaxedMask, learn_published
from graft.localize.localization import localize_skill
from graft.localize.path import GradientPath
from graft.patch.mask import Mask
from graft.specs.localize import LocalizeSpec, PaperSpec
from graft.tasks.task import Task
from tests.checkpoints import bits_of, changed_mask

QUICK = PaperSpec(steps=8, check_every=2)


@pytest.fixture
def start(path: GradientPath) -> Mask:
    mask = changed_mask(path.pair)
    return Mask.of(mask.specs, {name: mask[name][::3] for name in mask})


def test_the_relaxed_mask_is_the_papers(path: GradientPath, start: Mask) -> None:
    relaxed = RelaxedMask(path, start, QUICK, seed=0)
    for name, logits in relaxed.logits.items():
        assert logits.min() >= 0
        assert logits.max() < 1
        opened = 1 / (1 + torch.exp(CUT - logits.double()))
        first = torch.zeros(logits.numel(), dtype=torch.float64)
        first[torch.tensor(start[name])] = 1
        expected = first * (1 - opened) + (1 - first) * opened
        assert torch.allclose(relaxed.gamma(name).double(), expected, atol=1e-7)
    assert relaxed.rounded() == start  # nothing has climbed to the cut yet


def test_a_step_is_gradient_descent_on_the_loss(path: GradientPath, start: Mask) -> None:
    """The analytic step against autograd through gamma."""
    relaxed = RelaxedMask(path, start, PaperSpec(lr=1e4), seed=0)
    name = "encoder.layer.0.output.dense.weight"
    before = relaxed.logits[name].clone()
    logits = before.clone().requires_grad_(True)
    first = torch.zeros(logits.numel())
    first[torch.tensor(start[name])] = 1
    opened = torch.sigmoid(logits - CUT)
    gamma = first * (1 - opened) + (1 - first) * opened
    path.move_to_each(relaxed.gamma)
    here = path.gradients_of(path.examples)[name]
    delta, _ = path.pair.read_delta(name)
    (gamma * (here * delta)).sum().backward()  # chain rule: d theta / d gamma = delta
    relaxed.step()
    assert logits.grad is not None
    assert torch.allclose(before - relaxed.logits[name], 1e4 * logits.grad, rtol=1e-3, atol=1e-7)
    assert not torch.equal(before, relaxed.logits[name])


def test_rounding_swaps_sides_of_what_climbed(path: GradientPath, start: Mask) -> None:
    relaxed = RelaxedMask(path, start, QUICK, seed=0)
    name = next(iter(start))
    moved = changed_mask(path.pair)[name]
    leaves, joins = start[name][0], next(i for i in moved if i not in set(start[name].tolist()))
    relaxed.logits[name][[leaves, joins]] = CUT + 1
    found = set(relaxed.rounded()[name].tolist())
    assert found == set(start[name].tolist()) - {leaves} | {joins}


def test_it_serves_its_examples_at_least_as_well_as_the_start(path: GradientPath, start: Mask) -> None:
    before = bits_of(path.head.model)

    def accuracy(mask: Mask) -> float:
        path.move_to_graft(mask)
        labels = torch.tensor([example.label for example in path.examples])
        return float((path.head.predict(path.examples).argmax(-1) == labels).float().mean())

    found = learn_published(path, start, [], PaperSpec(steps=10), seed=0)
    assert bits_of(path.head.model) == before
    assert found != start  # lr 1e7 moves entries
    assert accuracy(found) >= accuracy(start)


def test_low_precision_is_refused(path: GradientPath, start: Mask) -> None:
    path.head.model.bfloat16()
    with pytest.raises(ConfigError, match="float32"):
        learn_published(path, start, [], QUICK, seed=0)


def test_an_empty_mask_is_refused(path: GradientPath) -> None:
    with pytest.raises(BudgetError, match="empty"):
        learn_published(path, Mask.of({}, {}), [], PaperSpec(steps=1, lr=1e-30), seed=0)


def test_the_method_reports_the_density_that_comes_out(base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec("paper", budget=300, scope="all", paper=QUICK)
    patch = localize_skill(base, tuned, task, config)
    assert len(patch) >= 1
    assert patch.provenance.method["paper"] == {
        "lr": 1e7,
        "steps": 8,
        "batch_size": 1024,
        "check_every": 2,
    }
    assert len(localize_skill(base, tuned, task, config)) == len(patch)
