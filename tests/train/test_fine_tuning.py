from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graft.errors import ConfigError, DataError, OutputError, TrainingError
from graft.evaluate.evaluation import evaluate_task
from graft.files.training_manifest import MANIFEST
from graft.specs.head import HeadSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.train import epochs
from graft.train.epochs import Epoch
from graft.train.fine_tuning import TrainResult, train_task
from graft.train.multitask_data import MultiTaskData
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper, make_optimizer
from tests.checkpoints import equal_tensors
from tests.models import copy_with, write_task

Tensors = dict[str, torch.Tensor]


def weights_of(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def train(base: Path, task: Task, out: Path, **changes: Any) -> Tensors:
    config = dataclasses.replace(task.spec.train, **{"epochs": 2, **changes})
    return weights_of(train_task(base, task, out, config=config).path)


def test_training_teaches(base: Path, task: Task, tmp_path: Path) -> None:
    result = train_task(base, task, tmp_path / "out")
    assert result.epochs[-1].loss < 0.6 * result.epochs[0].loss
    assert result.epochs[-1].validation_accuracy > 0.8
    assert evaluate_task(base, task)["accuracy"] < 0.7
    tuned = evaluate_task(tmp_path / "out", task)
    assert tuned["accuracy"] > 0.8
    assert tuned.ood["meals"]["accuracy"] > 0.65


def test_the_folder_holds_model_tokenizer_and_record(base: Path, task: Task, tuned: Path) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", MANIFEST} <= {f.name for f in tuned.iterdir()}
    assert not tuned.with_name("tuned.resume").exists()
    text = (tuned / MANIFEST).read_text()
    record = json.loads(text)
    assert (record["base"], record["task"]["name"], record["train"]["lr"]) == ("base", "moods", 0.1)
    assert len(record["epochs"]) == 5
    assert str(base.parent) not in text


def test_the_bits_are_given_by_the_seed(base: Path, task: Task, tmp_path: Path) -> None:
    first, again = (train(base, task, tmp_path / name) for name in ("a", "b"))
    assert equal_tensors(first, again)
    assert not equal_tensors(first, train(base, task, tmp_path / "c", seed=1))
    assert not equal_tensors(first, train(base, task.with_seed(1), tmp_path / "d"))


def test_only_the_scope_is_trained(base: Path, task: Task, tmp_path: Path) -> None:
    before, after = weights_of(base), train(base, task, tmp_path / "out", scope="layers")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(".layer." in name for name in moved)
    everything = train(base, task, tmp_path / "all")
    assert not torch.equal(before["embeddings.word_embeddings.weight"], everything["embeddings.word_embeddings.weight"])


def test_a_new_head_trains_whatever_the_scope(base: Path, task: Task, tmp_path: Path) -> None:
    task = dataclasses.replace(task, spec=dataclasses.replace(task.spec, head=HeadSpec("classifier")))
    one, two = (train(base, task, tmp_path / str(n), scope=r"layer\.0", epochs=n) for n in (1, 2))
    assert not torch.equal(one["classifier.weight"], two["classifier.weight"])
    assert torch.equal(one["bert.encoder.layer.1.output.dense.weight"], two["bert.encoder.layer.1.output.dense.weight"])
    assert not torch.equal(
        one["bert.encoder.layer.0.output.dense.weight"], two["bert.encoder.layer.0.output.dense.weight"]
    )


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (16, 1), (17, 2), (40, 3)])
def test_a_number_of_steps_overrides_the_epochs(
    steps: int, epochs: int, base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    taken = lambda stepper, head, batch, step: rates.append(stepper.schedule.learning_rate(step)) or 1.0  # noqa: E731
    monkeypatch.setattr(Stepper, "take", taken)  # 16 batches an epoch
    result = train_task(base, task, tmp_path / "out", config=dataclasses.replace(task.spec.train, steps=steps))
    assert len(result.epochs) == epochs
    assert rates == [pytest.approx(0.1 * (1 - i / steps)) for i in range(steps)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_is_the_one_asked_for(optimizer: Any, base: Path, task: Task) -> None:
    config = TrainSpec(optimizer=optimizer, lr=0.25, weight_decay=0.5)
    made = make_optimizer(open_head(base, task.spec).model, config)
    assert type(made).__name__.lower() == optimizer
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.25, 0.5)]


def test_bases_in_fp32_keep_the_form_of_adamw_and_others_take_the_fused_one(
    base: Path, task: Task, tmp_path: Path
) -> None:
    narrow = copy_with(base, tmp_path / "narrow", lambda *_: None, torch.bfloat16)
    config = TrainSpec(optimizer="adamw")
    for path, fused in ((base, None), (narrow, True)):
        stepper = Stepper.start(open_head(path, task.spec), TrainingSchedule((8,), config, 0), path)
        assert stepper.optimizer.defaults["fused"] is fused
        before = [weight.detach().clone() for weight in stepper.head.model.parameters()]
        assert stepper.take(stepper.head, task.train_examples()[:8], 0) > 0
        assert any(not torch.equal(*pair) for pair in zip(before, stepper.head.model.parameters(), strict=True))


def test_gradients_are_clipped_to_their_norm(base: Path, task: Task, tmp_path: Path) -> None:
    before = weights_of(base)
    for clip, largest in ((1e-3, 2e-4), (1e9, 1e9)):
        after = train(base, task, tmp_path / str(clip), steps=1, lr=0.1, clip=clip)
        moved = sum(float((after[name] - before[name]).square().sum()) for name in before) ** 0.5
        assert 5e-5 < moved < largest
    assert moved > 0.01


def test_a_schedule_by_hand() -> None:
    schedule = TrainingSchedule((10,), TrainSpec(lr=0.3, epochs=2, batch_size=4), seed=0)
    assert (schedule.steps_per_epoch, schedule.steps, schedule.epochs) == (3, 6, 2)
    first, second = schedule.batches(0), schedule.batches(1)
    assert [batch.step for batch in (*first, *second)] == list(range(6))
    assert sorted(i for batch in first for i in batch.positions) == list(range(10))
    assert [batch.positions for batch in first] != [batch.positions for batch in second]
    assert [schedule.learning_rate(i) for i in range(6)] == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1, 0.05])
    constant = TrainingSchedule((10,), TrainSpec(lr=0.3, schedule="constant"), seed=0)
    assert constant.learning_rate(14) == 0.3


@pytest.mark.parametrize(
    "changes",
    [{"lr": 1e30}, {"lr": 1e30, "steps": 1}, {"lr": 1e30, "optimizer": "adamw", "steps": 1}],
)
def test_a_loss_or_weight_that_is_not_finite_leaves_no_output(
    changes: dict[str, Any], base: Path, task: Task, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"lower train.lr$"):  # no epoch is done that could be kept
        train(base, task, tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_fails_after_an_epoch_says_that_it_is_kept(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = epochs.train_epoch

    def failing(stepper: Stepper, data: MultiTaskData, number: int) -> tuple[Epoch, int]:
        if number:
            raise TrainingError("the loss is nan: lower train.lr")
        return plain(stepper, data, number)

    monkeypatch.setattr(epochs, "train_epoch", failing)
    with pytest.raises(TrainingError, match=r"lower train.lr; the last good epoch is kept for --resume$"):
        train(base, task, tmp_path / "out", epochs=2)
    (state,) = tmp_path.iterdir()
    assert (state / "state.pt").is_file()


def test_a_base_with_nan_is_refused(base: Path, task: Task, tmp_path: Path) -> None:
    bad = copy_with(base, tmp_path / "bad", lambda _, w: w.view(-1)[:1].fill_(float("nan")))
    with pytest.raises(TrainingError, match=r"the loss is nan"):
        train(bad, task, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize("place", ["graft.tasks.heads.similarity.SimilarityHead.logits", "torch.optim.SGD.step"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmany GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate many bytes"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_said_in_one_line(
    place: str, error: Exception, base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, full)
    with pytest.raises(TrainingError, match=r"^out of memory: lower train.micro_batch_size or max_length, or use"):
        train(base, task, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_before_anything_is_written(base: Path, task: Task, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match=r"there exists already"):
        train_task(base, task, tmp_path / "there")
    with pytest.raises(ConfigError, match=r"train.scope 'nowhere' holds no tensor of the model"):
        train(base, task, tmp_path / "out", scope="nowhere")
    few = Task.load(write_task(tmp_path / "few", shots=1000))
    with pytest.raises(DataError, match=r"1000 shots per class were asked for"):
        train(base, few, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "there"]


def test_an_existing_folder_is_replaced_whole_by_force(base: Path, task: Task, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    config = dataclasses.replace(task.spec.train, steps=1)
    result: TrainResult = train_task(base, task, tmp_path / "out", config=config, force=True)
    assert weights_of(result.path)
    assert not (tmp_path / "out" / "old.txt").exists()
