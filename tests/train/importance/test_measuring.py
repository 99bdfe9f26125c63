from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import BudgetError, CheckpointError, ConfigError
from graft.localize.diff import diff_checkpoints
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import GradientMean
from graft.specs.importance import ImportanceSpec
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import train_task
from graft.train.importance.importance_file import FILE, load_importance
from graft.train.importance.measuring import FLOOR, measure_importance
from tests.models import toy_examples, write_task


@pytest.fixture
def few(task_file: Path) -> Task:
    """The toy task with 16 training examples."""
    return Task.load(task_file, ("shots=8",))


def all_scores(found: Any) -> torch.Tensor:
    return torch.cat([found.scores[name]() for name in sorted(found.scores)])


def test_fisher_is_the_mean_of_squared_gradients_of_single_examples(base: Path, few: Task) -> None:
    found = measure_importance(base, few, ImportanceSpec("fisher", scope="layers"))
    from graft.tasks.head import open_head

    pair = CheckpointPair.open(base, base)
    path = GradientPath(open_head(base, few.spec), pair, tuple(found.scores), few.train_examples(), class_debias=False)
    expected = path.squared_gradients_at(0.0)
    for name, scores in found.scores.items():
        torch.testing.assert_close(scores(), expected[name], rtol=1e-4, atol=1e-9)


def test_saliency_is_the_weight_times_the_mean_size_of_its_gradient(base: Path, few: Task) -> None:
    from graft.tasks.head import open_head

    found = measure_importance(base, few, ImportanceSpec(micro_batch=4))
    head, total = open_head(base, few.spec), 0.0
    examples = sorted(few.train_examples(), key=lambda example: example.n_characters)
    name = "encoder.layer.1.output.dense.weight"
    weight = head.model.get_parameter(name)
    for start in range(0, len(examples), 4):
        batch = examples[start : start + 4]
        (gradient,) = torch.autograd.grad(head.loss(batch), [weight])
        total = total + gradient.abs() * len(batch) / len(examples)
    torch.testing.assert_close(found.scores[name](), (total * weight.abs()).detach().flatten(), rtol=1e-4, atol=1e-9)


def test_gradients_are_freed_and_hooks_removed(base: Path, few: Task) -> None:
    from graft.tasks.head import open_head

    head = open_head(base, few.spec)
    weights = dict(head.model.named_parameters())
    sizes = GradientMean(head, weights, toy_examples(6), 4).of(torch.abs)
    assert any(size.any() for size in sizes.values())
    assert all(weight.grad is None for weight in weights.values())
    head.loss(toy_examples(2)).backward()  # type: ignore[no-untyped-call]
    assert any(weight.grad is not None for weight in weights.values())  # the control: no hook takes them now


def test_the_magnitude_of_the_update_is_that_of_diff(base: Path, tuned: Path) -> None:
    core = measure_importance(tuned, None, ImportanceSpec("movement"), base=base).core(0.01)
    assert core == diff_checkpoints(base, tuned, budget=len(core)).mask


def test_the_ratio_leaves_out_what_the_domain_needs_as_well(base: Path, few: Task, tmp_path: Path) -> None:
    same = measure_importance(base, few, domain=few)
    alone = measure_importance(base, few)
    general = all_scores(alone)
    expected = general / (general + FLOOR * general.mean())
    torch.testing.assert_close(all_scores(same), expected)
    other = Task.load(write_task(tmp_path / "other", shots=8, head={"kind": "similarity", "texts": ["soup", "film"]}))
    assert measure_importance(base, few, domain=other).core(0.1) != alone.core(0.1)


def test_a_record_scores_what_it_holds_and_no_more(base: Path, task: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(task.spec.train, epochs=1, record=RecordSpec(share=0.1))
    tuned = train_task(base, task, tmp_path / "tuned", config=config).path
    held = load_importance(tuned / FILE)
    assert len(held.mask) == round(0.1 * Checkpoint.open(base).n_parameters)
    found = measure_importance(tuned, None, ImportanceSpec("path"))
    assert (found.core(0.02) - held.mask).indices == {}
    with pytest.raises(BudgetError, match="those left have no score"):
        found.core(0.5)
    with pytest.raises(CheckpointError, match="no such file of importance"):
        measure_importance(base, None, ImportanceSpec("path"))


def test_what_a_method_needs_is_asked_for_at_once(base: Path, task: Task) -> None:
    with pytest.raises(ConfigError, match="importance by saliency needs a task's data"):
        measure_importance(base, None)
    with pytest.raises(ConfigError, match="importance by movement needs the base"):
        measure_importance(base, None, ImportanceSpec("movement"))
    with pytest.raises(ConfigError, match="takes no data, and so no domain"):
        measure_importance(base, task, ImportanceSpec("path"), domain=task)
    with pytest.raises(ConfigError, match="holds no tensor"):
        measure_importance(base, task, ImportanceSpec(scope="no_such_name"))
    with pytest.raises(ValueError, match="micro_batch"):
        ImportanceSpec(micro_batch=0)


def test_a_record_under_another_heads_names_serves_and_the_new_head_is_not_in_it(
    base: Path, task_file: Path, tmp_path: Path
) -> None:
    task = Task.load(task_file, ("head={kind: classifier}", "train.epochs=1"))
    config = dataclasses.replace(task.spec.train, record=RecordSpec())
    tuned = train_task(base, task, tmp_path / "tuned", config=config).path
    held = load_importance(tuned / FILE)
    assert all(name.startswith(("encoder.", "embeddings.", "pooler.")) for name in held.mask)
    core = measure_importance(tuned, None, ImportanceSpec("path")).core(0.02)
    assert core
    assert all(name.startswith("bert.") for name in core)
    config = dataclasses.replace(task.spec.train, regularize=RegularizeSpec(strength=1e6, step="proximal"))
    held_still = CheckpointPair.open(tuned, train_task(tuned, task, tmp_path / "next", config=config).path)
    free = CheckpointPair.open(tuned, train_task(tuned, task, tmp_path / "free").path)

    def moved(pair: CheckpointPair) -> float:
        return max(float(pair.read_delta(f"bert.{n}")[0][torch.tensor(held.mask[n])].abs().max()) for n in held.mask)

    assert moved(free) > 0  # the control
    assert moved(held_still) < 0.01 * moved(free)
