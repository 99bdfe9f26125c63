"""After `Trainer.train()`: rows and live models in, a patch out, without a folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import graft
from graft.errors import CheckpointError, ConfigError, DataError
from graft.patch.format.writing import patch_bytes
from graft.specs.localize import LocalizeSpec
from tests.checkpoints import equal_patches
from tests.models import MOODS, bert_tokenizer, toy_rows
from tests.sources.test_live_model import state_of

CONFIG = LocalizeSpec(budget=1500, points=4, scope="layers+embeddings")


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"text": row["text"], "label": MOODS[row["label"]]} for row in rows]


@pytest.fixture(scope="module")
def trained(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier that transformers' own Trainer made of the base, labels in another order than the task's."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    torch.manual_seed(0)
    names = dict(enumerate(reversed(MOODS)))
    model = AutoModelForSequenceClassification.from_pretrained(
        shelf / "base", id2label=names, label2id={name: row for row, name in names.items()}
    )
    tokenizer, rows = bert_tokenizer(), toy_rows(320, 0)
    examples = [{**tokenizer(row["text"]), "labels": 1 - row["label"]} for row in rows]
    settings = {"per_device_train_batch_size": 8, "num_train_epochs": 4, "learning_rate": 5e-3, "report_to": []}
    folder = str(tmp_path_factory.mktemp("trainer"))
    arguments = TrainingArguments(folder, save_strategy="no", use_cpu=True, disable_tqdm=True, **settings)
    trainer = Trainer(model, arguments, train_dataset=Dataset.from_list(examples), processing_class=tokenizer)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def task() -> graft.Task:
    splits = {"train": named(toy_rows(96, 0)), "validation": named(toy_rows(32, 1)), "test": named(toy_rows(64, 2))}
    return graft.Task.of(**splits, labels=MOODS, head="classifier")


def test_five_lines_after_training(trained: Any, task: graft.Task, base: Path, tmp_path: Path) -> None:
    model, tokenizer = trained.model, trained.processing_class
    model.train()
    before = state_of(model)
    patch = graft.localize_skill(base, model, task, CONFIG, tokenizer=tokenizer)
    graft.save_patch(patch, tmp_path / "skill.safetensors")
    report = graft.evaluate_task(base, task, patches=(graft.load_patch(tmp_path / "skill.safetensors"),))
    tuned = graft.evaluate_task(model, task, tokenizer=tokenizer)
    assert state_of(model) == before
    assert tuned["accuracy"] > 0.9
    assert report["accuracy"] > 0.9
    assert set(patch.dense) == {"classifier.weight", "classifier.bias"}
    assert patch.provenance.task is not None
    assert patch.provenance.task["labels"] == list(reversed(MOODS))
    trained.save_model(str(tmp_path / "saved"))
    assert equal_patches(graft.localize_skill(base, tmp_path / "saved", task, CONFIG), patch)
    assert graft.evaluate_task(tmp_path / "saved", task).to_json() == tuned.to_json()


def test_the_base_may_be_live_too(trained: Any, task: graft.Task, base: Path) -> None:
    live = graft.Task  # the same class from the public name
    assert isinstance(task, live)
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(base)
    before = state_of(encoder)
    patch = graft.localize_skill(encoder, trained.model, task, CONFIG, tokenizer=bert_tokenizer())
    assert state_of(encoder) == before
    found = graft.localize_skill(base, trained.model, task, CONFIG)
    assert patch.mask == found.mask
    assert patch.provenance.base == found.provenance.base
    assert patch_bytes(graft.diff_checkpoints(encoder, trained.model)) == patch_bytes(
        graft.diff_checkpoints(base, trained.model)
    )


def test_a_tokenizer_comes_from_where_it_can(trained: Any, task: graft.Task, base: Path) -> None:
    wanted = graft.evaluate_task(trained.model, task, tokenizer=bert_tokenizer())
    assert graft.evaluate_task(trained.model, task).to_json() == wanted.to_json()  # of the folder it was loaded from
    homeless = copy.deepcopy(trained.model)
    homeless.config._name_or_path = ""
    with pytest.raises(CheckpointError, match="tokenizer="):
        graft.evaluate_task(homeless, task)
    with pytest.raises(ConfigError, match="a folder brings its own"):
        graft.evaluate_task(base, task, tokenizer=bert_tokenizer())


def test_labels_of_another_head_are_refused(trained: Any, base: Path) -> None:
    rows = [{"text": row["text"], "label": ("no", "yes")[row["label"]]} for row in toy_rows(8, 0)]
    task = graft.Task.of(train=rows, test=rows, labels=["no", "yes"], head="classifier")
    with pytest.raises(CheckpointError, match="glad, sad, and the task has no, yes"):
        graft.localize_skill(base, trained.model, task, CONFIG)
    with pytest.raises(DataError, match="task 'task' has no validation rows"):
        task.validation_examples()


def test_rows_of_a_dataset(trained: Any, task: graft.Task, base: Path) -> None:
    rows = Dataset.from_list(toy_rows(96, 0)).cast_column("label", ClassLabel(names=list(MOODS)))
    other = graft.Task.of(train=rows.with_format("torch"), validation=rows, head="classifier")
    assert other.spec.labels == MOODS
    assert other.train_examples() == task.train_examples()
    patch = graft.localize_skill(base, trained.model, other, CONFIG)
    assert patch.mask == graft.localize_skill(base, trained.model, task, CONFIG).mask
