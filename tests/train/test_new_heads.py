"""Weights that a base lacks, and those drawn anew, train whole whatever the scope; what it has goes by the scope."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from graft.specs.adapter import AdapterSpec
from graft.specs.localizable import LocalizableSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.new_weights import find_new
from graft.train.adapter import train_adapter
from graft.train.fine_tuning import train_task
from graft.train.stepper import set_trainable
from tests.models import bert_tokenizer, write_task

PLAIN = TrainSpec(optimizer="adamw", lr=1e-2, steps=2, batch_size=16, scope="layers")
FEW = TrainSpec(batch_size=16, scope="layers", localizable=LocalizableSpec(0.02, "gradient", epochs=1))
PULLED = dataclasses.replace(PLAIN, l1=1e-1)
SIZES: dict[str, dict[str, Any]] = {
    "DistilBertForMaskedLM": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "BertForMaskedLM": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "BartForConditionalGeneration": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    | {f"{part}_{size}": n for part in ("encoder", "decoder") for size, n in (("attention_heads", 2), ("ffn_dim", 32))}
    | {"eos_token_id": 2, "bos_token_id": 3, "decoder_start_token_id": 2},
}


def classifier(folder: Path, *labels: str) -> Task:
    changes = (f"labels=[{', '.join(labels)}]",) if labels else ()
    return Task.load(write_task(folder, head={"kind": "classifier"}, shots=None), changes)


def moved(before: Path, after: Path) -> set[str]:
    one, two = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name for name in one.keys() & two.keys() if not torch.equal(one[name], two[name])}


@pytest.mark.parametrize("name", SIZES)
def test_every_layer_that_the_files_lack_trains(name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, name)
    kind(kind.config_class(vocab_size=64, pad_token_id=0, **SIZES[name])).save_pretrained(tmp_path / "base")
    bert_tokenizer().save_pretrained(tmp_path / "base")
    model = open_head(tmp_path / "base", classifier(tmp_path / "task").spec).model
    stored = load_file(tmp_path / "base" / "model.safetensors")
    lacking = {name for name, _ in model.named_parameters() if name not in stored}
    set_trainable(model, PLAIN)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert lacking
    assert find_new(model) == lacking
    assert not lacking & frozen
    assert frozen


@pytest.mark.parametrize("config", [PLAIN, FEW, PULLED])
def test_a_head_for_other_labels_is_new_as_a_whole_and_one_for_the_same_goes_by_the_scope(
    config: TrainSpec, base: Path, tmp_path: Path
) -> None:
    everything = dataclasses.replace(PLAIN, scope="all")
    first = train_task(base, classifier(tmp_path / "task"), tmp_path / "first", config=everything).path
    same = train_task(first, classifier(tmp_path / "task"), tmp_path / "same", config=config)
    assert same.changes is None or same.changes.changed > 0
    assert all(".layer." in name for name in moved(first, same.path))
    other = classifier(tmp_path / "task", "up", "down")
    drawn = open_head(first, other.spec, renew=True).model.classifier.weight
    weight = load_file(train_task(first, other, tmp_path / "other", config=config).path / "model.safetensors")
    assert int((weight["classifier.weight"] != drawn).sum()) == drawn.numel()
    three = train_task(first, classifier(tmp_path / "task", "up", "down", "level"), tmp_path / "three", config=config)
    assert len(load_file(three.path / "model.safetensors")["classifier.weight"]) == 3


def test_a_new_head_trains_beside_an_adapter(base: Path, tmp_path: Path) -> None:
    task, plain = classifier(tmp_path / "task"), dataclasses.replace(PLAIN, scope="all")
    one, two = (
        train_adapter(
            base, task, tmp_path / str(n), AdapterSpec("lora", rank=2), config=dataclasses.replace(plain, steps=n)
        )
        for n in (1, 2)
    )
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= moved(one.path, two.path)
