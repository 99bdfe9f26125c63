"""What all trials share: tiny sound models, tasks of every head, patches; built once, and only read after that."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.tensors.checkpoint import Checkpoint
from tests.models import (
    CHOICE,
    MOODS,
    SIZES,
    VERBALIZER,
    WORDS,
    Rows,
    bert_tokenizer,
    choice_rows,
    toy_rows,
    word_tokenizer,
    write_base,
    write_causal,
    write_masked,
)

SPLITS = ("train", "validation", "test")
HEADS: dict[str, dict[str, Any]] = {
    "similarity": {"kind": "similarity", "texts": ["bad sorry", "good happy"]},
    "template": {"kind": "similarity", "template": "it is {}", "texts": ["bad", "good"]},
    "classifier": {"kind": "classifier"},
    "verbalizer": VERBALIZER,
    "choice": CHOICE,
    "lm": {"kind": "lm"},
}
MODELS = {  # the models that each head runs on, the most usual first
    "similarity": ("bert", "bert", "bert", "gpt2", "bart"),
    "template": ("bert",),
    "classifier": ("classifier", "bert", "gpt2"),
    "verbalizer": ("masked", "causal"),
    "choice": ("causal", "gpt2"),
    "lm": ("causal", "gpt2"),
}
N_ROWS = 8


def build_shelf(folder: Path) -> Path:
    """Write models and patches into a new folder: a pair of BERTs, and one model for each other head."""
    write_base(folder / "bert", steps=20)
    write_causal(folder / "causal", steps=5)
    write_masked(folder / "masked", steps=5)
    _write_classifier(folder / "classifier")
    _write_gpt2(folder / "gpt2")
    _write_bart(folder / "bart")
    for name in sorted({name for names in MODELS.values() for name in names}):
        _tune(folder / name, folder / f"{name}-tuned", seed=1)
    _tune(folder / "bert", folder / "other", seed=2)
    tuned = folder / "bert-tuned"
    for name, budget in (("skill", 40), ("large", 400)):
        save_patch(diff_checkpoints(folder / "bert", tuned, budget=budget), folder / f"{name}.safetensors")
    save_patch(diff_checkpoints(folder / "bert", folder / "other", budget=40), folder / "second.safetensors")
    merge_patches(Checkpoint.open(folder / "bert"), [load_patch(folder / "skill.safetensors")], folder / "skilled")
    save_patch(diff_checkpoints(folder / "skilled", folder / "other", budget=40), folder / "later.safetensors")
    base = Checkpoint.open(folder / "bert")
    name = next(name for name in base.parameters if "layer.0" in name)
    save_patch(Mask.of({name: base.spec(name)}, {name: range(9)}), folder / "mask.safetensors")
    return folder


def task_of(head: str) -> tuple[dict[str, Any], dict[str, Rows]]:
    """A sound TASK file's content and the rows of its files, small: labels are positions in the sets from elsewhere."""
    sets = (*SPLITS, "meals")
    if head == "choice":
        rows = {name: choice_rows(N_ROWS, seed) for seed, name in enumerate(sets)}
    else:
        rows = {name: toy_rows(N_ROWS, seed) for seed, name in enumerate(sets)}
        for name in SPLITS:
            rows[name] = [{**row, "label": MOODS[row["label"]]} for row in rows[name]]
    content: dict[str, Any] = {
        "name": "moods",
        "data": {split: f"{split}.jsonl" for split in SPLITS},
        "ood": {"meals": {"path": "meals.jsonl", "labels": list(MOODS), "map": {"sad": "sad"}}},
        "labels": list(MOODS),
        "text": "text",
        "head": copy.deepcopy(HEADS[head]),
        "max_length": 24,
        "seed": 3,
        "train": {"lr": 0.1, "epochs": 1, "batch_size": 4, "optimizer": "sgd", "scope": "layers"},
    }
    if head in ("choice", "lm"):
        content["ood"] = {"meals": "meals.jsonl"}
        del content["labels"]
    if head == "choice":
        content["choices"] = "choices"
    return content, rows


def _tune(base: Path, folder: Path, seed: int) -> None:
    """A copy in which every seventh weight moved."""
    draw = torch.Generator().manual_seed(seed)
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        moved = tensor.view(-1)[seed::7]
        moved += 0.01 * torch.randn(moved.shape, generator=draw)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_classifier(folder: Path) -> None:
    """As published: its labels have names, in another order than the task's."""
    torch.manual_seed(2)
    names = {0: "glad", 1: "sad"}
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}, "initializer_range": 0.3}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **labels, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)


def _write_gpt2(folder: Path) -> None:
    """A decoder with learned positions."""
    torch.manual_seed(3)
    sizes = {"vocab_size": len(WORDS), "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    GPT2LMHeadModel(GPT2Config(initializer_range=0.3, **sizes, **ids)).save_pretrained(folder)
    word_tokenizer(eos_token="[SEP]", pad_token="[PAD]").save_pretrained(folder)


def _write_bart(folder: Path) -> None:
    """An encoder-decoder."""
    torch.manual_seed(4)
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    more = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32, "init_std": 0.3, "d_model": 32}
    ids = {
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 3,
    }
    BartForConditionalGeneration(BartConfig(vocab_size=len(WORDS), **sizes, **more, **ids)).save_pretrained(folder)
    word_tokenizer(pad_token="[PAD]", eos_token="[SEP]").save_pretrained(folder)
