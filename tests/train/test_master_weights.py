"""A narrow base trains as fp32 master weights; what is saved and measured is their rounding; fp32 knows no change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graft.errors import ConfigError, TrainingError
from graft.localize.diff import diff_checkpoints
from graft.parallel.ranks import Ranks
from graft.patch.mask import Mask
from graft.specs.adapter import AdapterSpec
from graft.specs.localizable import LocalizableSpec
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec
from graft.specs.runtime import Runtime
from graft.specs.train import TrainSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.adapter import train_adapter
from graft.train.content import content_of_training
from graft.train.fine_tuning import find_training, train_task
from graft.train.importance.importance_file import find_importance, load_importance
from graft.train.importance.importance_weights import check_anchor
from graft.train.master_weights import MasterWeights, loaded_dtype, products_of_shards
from tests.checkpoints import bits_of, changed_entries, count, equal_tensors, small_llama
from tests.models import copy_with

ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-5, "steps": 12}


@pytest.fixture(scope="module")
def narrow(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with(shelf / "base", tmp_path_factory.mktemp("narrow") / "base", lambda *_: None, torch.bfloat16)


def train(base: Path, task: Task, out: Path, *, dtype: str = "auto", protect: Any = (), **changes: Any) -> Any:
    config = dataclasses.replace(task.spec.train, **{"epochs": 1, **changes})
    return train_task(base, task, out, config=config, dtype=dtype, protect=protect)


def moved(base: Path, tuned: Path) -> float:
    changes = changed_entries(base, tuned)
    return count(changes) / sum(flags.numel() for flags in changes.values())


def test_small_steps_are_lost_in_a_narrow_dtype_and_kept_by_masters(narrow: Path, task: Task, tmp_path: Path) -> None:
    shares = {
        precision: moved(narrow, train(narrow, task, tmp_path / precision, precision=precision, **ADAM).path)
        for precision in ("pure", "mixed", "full")
    }
    assert shares["pure"] > 0  # next to 0 bfloat16 is fine enough
    assert shares["mixed"] > 1.5 * shares["pure"]
    assert shares["full"] == pytest.approx(shares["mixed"], rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("precision", ["mixed", "full"])
def test_what_is_measured_and_saved_is_in_the_dtype_that_was_loaded(
    precision: str, dtype: str, base: Path, task: Task, tmp_path: Path
) -> None:
    made = train(base, task, tmp_path / "out", dtype=dtype, precision=precision, lr=0.1)
    saved = load_file(made.path / "model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {f"torch.{dtype}"}
    assert json.loads((made.path / "config.json").read_text())["dtype"] == dtype
    assert json.loads((made.path / "graft_training.json").read_text())["train"]["precision"] == precision
    accuracy = open_head(made.path, task.spec).accuracy(task.validation_examples())
    assert 0.55 < accuracy == made.epochs[-1].validation_accuracy


def test_a_rounded_model_computes_as_the_saved_one_does_and_its_masters_come_back(narrow: Path, task: Task) -> None:
    head, examples = open_head(narrow, task.spec), task.validation_examples()
    before = head.predict(examples)
    masters = MasterWeights(head.model, "mixed")
    own = dict(head.model.named_parameters())
    with masters.rounded():
        assert torch.equal(head.predict(examples), before)
    with torch.no_grad():
        for weight in head.model.parameters():
            weight += 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    held = bits_of(head.model)
    with masters.rounded():
        rounded = head.predict(examples)
    with pytest.raises(ConfigError), masters.rounded():
        raise ConfigError("within")
    assert bits_of(head.model) == held
    assert all(weight is own[name] for name, weight in head.model.named_parameters())
    assert not torch.equal(head.predict(examples), rounded)  # by the masters themselves
    masters.round()
    assert not masters
    assert torch.equal(head.predict(examples), rounded)
    assert not torch.equal(rounded, before)


def test_tied_weights_stay_one_tensor() -> None:
    model = small_llama(tied=True, dtype=torch.bfloat16)
    before, masters = bits_of(model), MasterWeights(model, "mixed")
    tied = model.get_input_embeddings().weight
    assert tied is model.lm_head.weight
    assert tied.dtype == torch.float32
    with masters.rounded():
        assert model.lm_head.weight is model.get_input_embeddings().weight is not tied
    masters.round()
    assert bits_of(model) == before
    assert tied is model.lm_head.weight


def test_float16_that_does_not_hold_a_weight_is_said() -> None:
    model = torch.nn.Linear(2, 2).half()
    masters = MasterWeights(model, "full")
    with torch.no_grad():
        model.weight.fill_(65519.0)
    masters.round()
    masters = MasterWeights(model, "full")
    with torch.no_grad():
        model.weight.fill_(65520.0)
    with pytest.raises(TrainingError, match=r"a trained weight is not finite in torch.float16: lower train.lr"):
        masters.round()


def test_products_are_narrow_in_mixed_precision_alone(narrow: Path, task: Task) -> None:
    found = {}
    for precision in ("pure", "mixed", "full"):
        head = open_head(narrow, task.spec)
        masters, seen = MasterWeights(head.model, precision), found.setdefault(precision, [])  # type: ignore[arg-type]
        layer = head.model.encoder.layer[0].output.dense
        layer.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.dtype))
        with masters.autocast():
            loss = head.loss(task.train_examples()[:2])
        assert loss.dtype == torch.float32
        loss.backward()
        assert layer.weight.grad.dtype == layer.weight.dtype
    assert {name: set(seen) for name, seen in found.items()} == {
        "pure": {torch.bfloat16},
        "mixed": {torch.bfloat16},
        "full": {torch.float32},
    }


def test_a_base_in_fp32_trains_to_the_same_bits_and_keeps_its_content(base: Path, task: Task, tmp_path: Path) -> None:
    made = [train(base, task, tmp_path / name, precision=name, steps=6).path for name in ("mixed", "pure", "full")]
    first, *others = (load_file(path / "model.safetensors") for path in made)
    assert all(equal_tensors(first, other) for other in others)
    for precision in ("mixed", "pure", "full"):
        config = dataclasses.replace(task.spec.train, precision=precision, micro_batch_size=3)
        content = content_of_training(base, [task], config, 0, "auto")
        assert {"precision", "micro_batch_size"}.isdisjoint(content["train"])
    found = dataclasses.replace(task.spec.train, epochs=1, steps=6, precision="full")
    assert find_training(base, task, tmp_path / "mixed", config=found) is not None


def test_the_content_of_a_narrow_training_tells_its_precision(narrow: Path, base: Path, task: Task) -> None:
    def told(folder: Path, precision: Any, dtype: str) -> Any:
        config = dataclasses.replace(task.spec.train, precision=precision)
        return content_of_training(folder, [task], config, 0, dtype)["train"].get("precision")

    for folder, dtype in ((narrow, "auto"), (base, "bfloat16"), (base, "float16")):
        assert [told(folder, precision, dtype) for precision in ("mixed", "full", "pure")] == ["mixed", "full", None]
    assert told(narrow, "mixed", "float32") is None
    assert loaded_dtype(Checkpoint.open(narrow), "auto") == torch.bfloat16


def test_weights_that_the_proximal_step_holds_back_keep_the_bases_bits(
    narrow: Path, task: Task, tmp_path: Path
) -> None:
    free, pulled = (moved(narrow, train(narrow, task, tmp_path / str(l1), l1=l1, lr=0.1).path) for l1 in (0.0, 3e-3))
    assert free > 0.3
    assert 0 < pulled < free / 4


@pytest.mark.parametrize("support", ["gradient", "pull"])
def test_few_weights_that_train_are_counted_as_they_are_saved(
    support: Any, narrow: Path, task: Task, tmp_path: Path
) -> None:
    few = LocalizableSpec(density=0.01, support=support)
    made = train(narrow, task, tmp_path / "out", localizable=few, scope="layers")
    patch = diff_checkpoints(narrow, made.path)
    assert made.changes is not None
    assert len(patch.mask) == made.changes.changed <= made.changes.trained
    assert made.changes.changed > 0.5 * made.changes.trained
    record = json.loads((made.path / "graft_training.json").read_text())
    assert record["changes"] == {"trained": made.changes.trained, "changed": made.changes.changed}
    found = dataclasses.replace(task.spec.train, epochs=1, localizable=few, scope="layers")
    assert find_training(narrow, task, tmp_path / "out", config=found) == made


def test_protected_entries_keep_the_bases_bits(narrow: Path, task: Task, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(narrow)
    halves = {name: np.arange(0, checkpoint.spec(name).numel, 2) for name in checkpoint.parameters}
    core = Mask.of({name: checkpoint.spec(name) for name in halves}, halves)
    made = train(narrow, task, tmp_path / "out", protect=[core], lr=0.1, optimizer="sgd", weight_decay=0.1)
    changed = changed_entries(narrow, made.path)
    assert not any(flags[::2].any() for flags in changed.values())
    assert sum(int(flags[1::2].sum()) for flags in changed.values()) > 1000


def test_a_record_anchors_what_was_saved_and_regularizes_the_next_training(
    narrow: Path, task: Task, tmp_path: Path
) -> None:
    first = train(narrow, task, tmp_path / "first", record=RecordSpec(), lr=0.1).path
    importance = load_importance(find_importance(None, first))
    saved = Checkpoint.open(first)
    for name in importance.mask:
        check_anchor(importance, name, saved.read(name))
    plain = train(first, task, tmp_path / "plain", lr=0.1).path
    held = train(first, task, tmp_path / "held", regularize=RegularizeSpec(strength=1e3), lr=0.1).path
    assert 0 < moved(first, held) < moved(first, plain)


def test_the_mean_of_the_weights_is_rounded_too(narrow: Path, task: Task, tmp_path: Path) -> None:
    made = train(narrow, task, tmp_path / "out", average=True, lr=0.1)
    accuracy = open_head(made.path, task.spec).accuracy(task.validation_examples())
    assert made.epochs[-1].validation_accuracy == accuracy


@pytest.mark.parametrize("kind", ["lora", "shira"])
def test_an_adapter_is_merged_before_it_is_rounded(kind: Any, narrow: Path, task: Task, tmp_path: Path) -> None:
    config = TrainSpec(optimizer="adamw", lr=1e-2, steps=12)
    made = train_adapter(narrow, task, tmp_path / "out", AdapterSpec(kind, rank=2), config=config)
    assert {spec.dtype for spec in map(Checkpoint.open(made.path).spec, Checkpoint.open(made.path).names)} == {"BF16"}
    assert moved(narrow, made.path) > 0
    accuracy = open_head(made.path, task.spec).accuracy(task.validation_examples())
    assert made.epochs[-1].validation_accuracy == accuracy


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "mixed"), ("bfloat16", "full")])
def test_masters_in_shards_are_measured_as_saved_or_refused(
    dtype: str, precision: Any, narrow: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.train.master_weights.find_ranks", lambda: Ranks(0, 2))
    monkeypatch.setattr("graft.tasks.head.find_ranks", lambda: pytest.fail("the model was loaded first"))
    few = LocalizableSpec(support="gradient")
    for config in (TrainSpec(precision=precision), TrainSpec(precision=precision, localizable=few)):
        with pytest.raises(ConfigError, match=rf"^train.precision {precision} of weights in {dtype} needs them whole"):
            train_task(narrow, task, tmp_path / "out", config=config, dtype=dtype, parallel="fsdp")
    assert list(tmp_path.iterdir()) == []
    sharded = Runtime(dtype="bfloat16", parallel="fsdp")
    assert products_of_shards(Checkpoint.open(narrow), sharded, "mixed") == torch.bfloat16
    assert products_of_shards(Checkpoint.open(narrow), sharded, "pure") is None
