"""Few weights chosen by the gradient of the loss at the base, and their training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.errors import BudgetError
from graft.evaluate.evaluation import evaluate_task
from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.memory.train import plan_training
from graft.patch.mask import Mask
from graft.specs.localizable import LocalizableSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.runtime import DEFAULT
from graft.specs.train import TrainSpec, once_told, train_unless_told
from graft.tasks import loading
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.train.fine_tuning import find_training, train_task
from graft.train.gradient_support import find_gradient_support
from graft.train.importance.general import draw_region
from graft.train.multitask_data import MultiTaskData
from graft.train.protection.protected_set import ProtectedSet
from graft.train.stepper import Stepper
from tests.models import VERBALIZER, copy_with, toy_spec, write_causal, write_task

DENSITY = 0.02
FEW = LocalizableSpec(density=DENSITY, support="gradient", lr=3e-2, epochs=8)
CONFIG = TrainSpec(scope="layers", localizable=FEW)


def find(base: Path, tasks: list[Task], core: ProtectedSet = ProtectedSet(), **changes: Any) -> Mask:  # noqa: B008
    data = MultiTaskData.open(base, tasks, DEFAULT, 0)
    config = dataclasses.replace(CONFIG, **changes)
    return find_gradient_support(data, Checkpoint.open(base), config, FEW.density, core)


def test_a_task_without_a_block_trains_few_weights_and_one_with_a_block_as_it_says() -> None:
    assert toy_spec().train == train_unless_told()
    assert train_unless_told().localizable == LocalizableSpec(support="gradient")
    assert toy_spec(train=TrainSpec()).train.localizable is None
    assert once_told(train_unless_told()) == TrainSpec()
    assert once_told(CONFIG) == CONFIG


def test_the_rate_is_as_told_or_such_that_a_step_of_all_is_as_long_for_every_number() -> None:
    assert LocalizableSpec(lr=0.5).rate_of(4) == LocalizableSpec(lr=0.5, support="gradient").rate_of(4) == 0.5
    assert LocalizableSpec().rate_of(100) == LocalizableSpec().rate_of(10_000) == 1e-3
    few = LocalizableSpec(support="gradient")
    assert few.rate_of(100) == pytest.approx(0.025)
    assert few.rate_of(100) * 10 == pytest.approx(few.rate_of(10_000) * 100)


def test_keys_of_a_training_that_there_is_not_are_refused() -> None:
    with pytest.raises(ValueError, match="proximal_l1 is of the first training, which support: gradient does not have"):
        LocalizableSpec(support="gradient", proximal_l1=1e-3)


def test_the_support_is_the_top_k_of_the_mean_loss_by_finite_differences(base: Path, task: Task) -> None:
    mask = find(base, [task])
    checkpoint = Checkpoint.open(base)
    names = Scope("layers").names(checkpoint)
    assert len(mask) == int(DENSITY * checkpoint.n_parameters + 0.5)
    assert set(mask) <= set(names)
    data = MultiTaskData.open(base, [task], DEFAULT, 0)
    head, examples = data.heads[0], data.train[0]
    weights = dict(head.model.double().eval().named_parameters())

    def loss() -> float:
        with torch.no_grad():  # of all examples at once
            return float(head.loss(examples))

    def slope(name: str, index: int, step: float = 3e-3) -> float:
        flat = weights[name].data.view(-1)
        there = float(flat[index])
        flat[index] = there + step
        above = loss()
        flat[index] = there - step
        below = loss()
        flat[index] = there
        return abs(above - below) / (2 * step)

    draw = np.random.default_rng(0)
    inside = [(name, int(draw.choice(mask[name]))) for name in list(mask)[::2]]
    others = {name: np.setdiff1d(np.arange(checkpoint.spec(name).numel), mask[name]) for name in names}
    outside = [(name, int(draw.choice(others[name]))) for name in names[::2] if len(others[name])]
    slopes = [[slope(*entry) for entry in entries] for entries in (inside, outside)]
    assert min(slopes[0]) > max(slopes[1]) - 1e-4  # what a loss in fp32 can tell
    assert max(slopes[0]) > 10 * np.mean(slopes[1]) > 0


def test_the_support_does_not_depend_on_the_batch_and_leaves_the_protected_out(base: Path, task: Task) -> None:
    whole, small = find(base, [task], batch_size=500), find(base, [task], batch_size=7)
    assert len(whole & small) > 0.99 * len(whole)  # sums in another order: ties aside, the same
    core = draw_region(base, 0.5, "all", 0)
    free = find(base, [task], ProtectedSet([core]))
    assert len(free & core) == 0
    assert len(free) == len(whole)
    assert whole - core == free & whole  # what is left of the best stays


def test_every_task_counts_by_its_examples(base: Path, task: Task, tmp_path: Path) -> None:
    other = Task.load(
        write_task(
            tmp_path / "other",
            labels=["glad", "sad"],
            head={"kind": "similarity", "texts": ["good happy", "bad sorry"]},
        )
    )
    alone, both = find(base, [task]), find(base, [task, task])
    assert alone.jaccard(both) > 0.99
    assert find(base, [task, other]).jaccard(alone) < 0.9


@pytest.mark.parametrize("head", [VERBALIZER, {"kind": "lm"}], ids=["verbalizer", "lm"])
def test_it_works_for_heads_that_predict_tokens(head: dict[str, Any], tmp_path: Path) -> None:
    base = write_causal(tmp_path / "base", steps=5)
    labels = {} if head["kind"] == "verbalizer" else {"labels": []}
    task = Task.load(write_task(tmp_path / "task", head=head, ood={}, **labels))
    result = train_task(base, task, tmp_path / "few", config=CONFIG)
    k = int(DENSITY * Checkpoint.open(base).n_parameters + 0.5)
    assert len(diff_checkpoints(base, result.path)) == k
    assert result.epochs[-1].loss < result.epochs[0].loss


def test_what_was_trained_is_its_patch(base: Path, task: Task, tmp_path: Path) -> None:
    result = train_task(base, task, tmp_path / "few", config=CONFIG)
    k = int(DENSITY * Checkpoint.open(base).n_parameters + 0.5)
    whole = diff_checkpoints(base, result.path)
    assert len(whole) == k
    assert whole.mask == find(base, [task])
    patch = localize_skill(base, result.path, task, LocalizeSpec("magnitude", density=DENSITY))
    assert patch.mask == whole.mask
    before, after = evaluate_task(base, task)["accuracy"], evaluate_task(result.path, task)["accuracy"]
    assert evaluate_task(base, task, patches=(patch,))["accuracy"] == after > before + 0.05
    assert {path.name for path in tmp_path.iterdir()} == {"few"}
    assert find_training(base, task, result.path, config=CONFIG) == result
    other = dataclasses.replace(CONFIG, localizable=dataclasses.replace(FEW, support="pull"))
    assert find_training(base, task, result.path, config=other) is None


def test_a_new_head_trains_whole_beside_them(base: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "task", head={"kind": "classifier"}))
    out = train_task(base, task, tmp_path / "classifier", config=CONFIG).path
    pair = CheckpointPair.open(base, out)
    assert any("classifier" in name for name in pair.extra)
    k = int(DENSITY * pair.base.n_parameters + 0.5)
    assert len(diff_checkpoints(base, out, scope="layers")) == k


def test_one_that_was_interrupted_ends_in_the_same_bits(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_task(base, task, tmp_path / "whole", config=CONFIG)
    real, taken = Stepper.take, []

    def take(self: Stepper, *given: Any) -> float:
        taken.append(self.average is not None)
        if len(taken) > 5 * self.schedule.steps_per_epoch + 1:  # within the second half, whose mean is the result
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", take)
        with pytest.raises(KeyboardInterrupt):
            train_task(base, task, tmp_path / "broken", config=CONFIG)
    assert all(taken)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken.resume"}
    again = train_task(base, task, tmp_path / "broken", config=CONFIG, resume=True)
    assert again.epochs == whole.epochs
    pair = CheckpointPair.open(whole.path, again.path)
    assert not any(pair.read_delta(name)[1].any() for name in pair.names)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken"}


def test_the_plan_counts_the_sum_of_gradients(base: Path, task: Task) -> None:
    def gradients(config: TrainSpec, dtype: str) -> int:
        runtime = dataclasses.replace(DEFAULT, dtype=dtype)
        return next(
            part.bytes or 0
            for part in plan_training(base, task, config, runtime=runtime).parts
            if part.what == "gradients"
        )

    pure = dataclasses.replace(CONFIG, precision="pure")
    pulled = dataclasses.replace(pure, localizable=LocalizableSpec(density=DENSITY))
    assert gradients(pure, "float32") == gradients(pulled, "float32")
    assert gradients(pure, "bfloat16") == 2 * gradients(pulled, "bfloat16")


def test_what_rounds_back_to_the_base_is_left_out_of_a_density_and_not_of_a_budget(
    base: Path, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    narrow = copy_with(base, tmp_path / "narrow", lambda *_: None, torch.bfloat16)
    config = dataclasses.replace(CONFIG, localizable=dataclasses.replace(FEW, lr=2e-5, epochs=1))
    result = train_task(narrow, task, tmp_path / "few", config=config)
    assert result.changes is not None
    trained, changed = result.changes.trained, result.changes.changed
    assert 0 < changed < trained
    patch = localize_skill(narrow, result.path, task, LocalizeSpec("magnitude", density=DENSITY))
    assert patch.mask == diff_checkpoints(narrow, result.path).mask
    assert len(patch) == changed
    assert f"{changed:,} of the {trained:,} weights that trained have other values" in capsys.readouterr().err
    for more in ({"budget": trained}, {"density": 2 * DENSITY}):
        with pytest.raises(BudgetError, match="in scope changed"):
            localize_skill(narrow, result.path, task, LocalizeSpec("magnitude", **more))
