"""Tiny real transformer folders and a toy task that they can learn: plain functions, everything from a seed.

The task: which of two moods a sentence of small words has. It depends on one word of the sentence, so that a
model of two layers learns it in a second. The base knows the topics of the words before it meets the moods.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from graft.localize.registry import LOCALIZATION_METHODS
from graft.specs.data import DataSpec
from graft.specs.head import HeadSpec
from graft.specs.task import TaskSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.heads.lm import LanguageModelHead
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.heads.verbalizer import VerbalizerHead
from graft.tasks.task import Task

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
GLAD = ["good", "great", "fine", "happy"]
SAD = ["bad", "awful", "dull", "sorry"]
FILMS = ["film", "actor", "scene", "plot", "camera", "screen", "story", "music"]
MEALS = ["soup", "bread", "salad", "waiter", "table", "kitchen", "sauce", "cake"]
SMALL = ["the", "a", "was", "is", "and", "with", "very", "this", "that", "it", "all", "one"]
WORDS = [*SPECIAL, *GLAD, *SAD, *FILMS, *MEALS, *SMALL]
MASKABLE = [*WORDS, "[MASK]"]
MOODS = ("sad", "glad")
TEXTS = ("bad sorry", "good happy")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

VERBALIZER = {"kind": "verbalizer", "template": "{text} it was {mask}", "words": ["bad", "good"]}
CHOICE = {"kind": "choice", "template": "{text} it was {choice}"}

Rows = list[dict[str, Any]]


def toy_rows(n: int, seed: int, things: Iterable[str] = FILMS) -> Rows:
    """n sentences, half of each mood: one word of mood among words without any."""
    draw = random.Random(seed)
    others = [*things, *SMALL]
    rows = []
    for i in range(n):
        words = [draw.choice(others) for _ in range(draw.randint(3, 8))]
        words.insert(draw.randint(0, len(words)), draw.choice((SAD, GLAD)[i % 2]))
        rows.append({"text": " ".join(words), "label": i % 2})
    draw.shuffle(rows)
    return rows


def choice_rows(n: int, seed: int) -> Rows:
    """n sentences with two to four choices, of which one has the sentence's mood."""
    draw = random.Random(seed)
    rows = []
    for row in toy_rows(n, seed):
        right, wrong = (GLAD, SAD) if row["label"] else (SAD, GLAD)
        others = [draw.choice(wrong), *draw.sample(MEALS, draw.randint(0, 2))]
        place = draw.randint(0, len(others))
        choices = [*others[:place], draw.choice(right), *others[place:]]
        rows.append({"text": row["text"], "choices": choices, "label": place})
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_yaml(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    return path


def toy_content(**changes: Any) -> dict[str, Any]:
    """What the toy TASK file holds, with some keys changed."""
    content: dict[str, Any] = {
        "name": "moods",
        "data": {split: f"{split}.jsonl" for split in ("train", "validation", "test")},
        "ood": {"meals": "meals.jsonl", "novel": "novel.jsonl"},
        "labels": list(MOODS),
        "head": {"kind": "similarity", "texts": list(TEXTS)},
        "shots": 64,
        "train": {"lr": 0.1, "epochs": 5, "batch_size": 8},
    }
    return content | changes


def write_task(folder: Path, **changes: Any) -> Path:
    """The toy task as a folder: three splits of films, an OOD set of meals, one without any mood."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, n) in enumerate({"train": 160, "validation": 48, "test": 80}.items()):
        write_rows(folder / f"{split}.jsonl", toy_rows(n, seed))
    write_rows(folder / "meals.jsonl", [*toy_rows(40, 3, MEALS), {"text": "the soup is the soup", "label": -1}])
    write_rows(folder / "novel.jsonl", [{"text": f"the {thing} is it", "label": -1} for thing in MEALS])
    return write_yaml(folder / "task.yaml", toy_content(**changes))


def general_of(method: str) -> Task | None:
    """Texts about meals, of no mood, for a method that contrasts a task's texts with general ones."""
    if not LOCALIZATION_METHODS[method].needs_general:
        return None
    draw = random.Random(9)
    rows = [{"text": " ".join(draw.choices([*MEALS, *SMALL], k=6)), "label": i % 2} for i in range(64)]
    return Task.of(train=rows, labels=MOODS, head={"kind": "similarity", "texts": list(TEXTS)}, name="meals")


def write_choices(folder: Path, **changes: Any) -> Path:
    """A task of choices as a folder, for the choice head."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, n) in enumerate({"train": 160, "validation": 48, "test": 80, "other": 40}.items()):
        write_rows(folder / f"{split}.jsonl", choice_rows(n, seed))
    content = toy_content(ood={"other": "other.jsonl"}, choices="choices", head=CHOICE)
    del content["labels"]
    return write_yaml(folder / "task.yaml", content | changes)


def toy_spec(**changes: Any) -> TaskSpec:
    """The toy task's typed content, for a head that is opened by hand."""
    fields: dict[str, Any] = {
        "name": "moods",
        "data": DataSpec("train.jsonl", "validation.jsonl", "test.jsonl"),
        "labels": MOODS,
        "head": HeadSpec(texts=TEXTS),
    }
    return TaskSpec(**(fields | changes))


def toy_examples(n: int, seed: int = 7) -> list[Example]:
    return [Example((row["text"],), row["label"]) for row in toy_rows(n, seed)]


def word_tokenizer(words: Sequence[str] = WORDS, **more: Any) -> PreTrainedTokenizerFast:
    """One token a word, [CLS] before and [SEP] after, as BERT has them."""
    tokens = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, WORDS.index(name)) for name in ("[CLS]", "[SEP]")]
    tokens.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} | more
    return PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=32, **names)


def bert_tokenizer() -> PreTrainedTokenizerFast:
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return word_tokenizer(pad_token="[PAD]", model_input_names=inputs)


def write_bert(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A BERT of two layers with random weights."""
    torch.manual_seed(seed)
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES)).to(dtype).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def write_llama(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers with random weights, whose tokenizer has no padding token."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=1, max_position_embeddings=32, **SIZES)
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer(eos_token="[SEP]").save_pretrained(folder)
    return folder


def write_base(folder: Path, seed: int = 0, steps: int = 60) -> Path:
    """A BERT that was trained to tell films from meals, so that its loss is not that of a random model."""
    write_bert(folder, seed)
    task = toy_spec(labels=("films", "meals"), head=HeadSpec(texts=("film actor scene", "soup bread salad")))
    return _teach_topics(SimilarityHead.load(folder, task, torch.float32), folder, steps, seed)


def write_masked(folder: Path, seed: int = 0, steps: int = 60) -> Path:
    """A masked language model that says of a sentence whether it is about a film or soup.

    ModernBERT, whose norms come first: of two layers it learns in a second what a BERT does in minutes.
    """
    torch.manual_seed(seed)
    ids = {
        f"{name}_token_id": WORDS.index(word) for name, word in zip(("pad", "unk", "cls", "sep"), SPECIAL, strict=True)
    }
    more: dict[str, Any] = {"initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3, **ids}
    config = ModernBertConfig(vocab_size=len(MASKABLE), max_position_embeddings=64, **more, **SIZES)
    ModernBertForMaskedLM(config).save_pretrained(folder)
    word_tokenizer(MASKABLE, pad_token="[PAD]", mask_token="[MASK]").save_pretrained(folder)
    asked = HeadSpec("verbalizer", template="{text} it was {mask}")
    head = VerbalizerHead.load(folder, toy_spec(labels=("film", "soup"), head=asked), torch.float32)
    return _teach_topics(head, folder, steps, seed, lr=5e-3)


def write_causal(folder: Path, seed: int = 0, steps: int = 60) -> Path:
    """A causal language model that has read about films and meals, embeddings and output layer tied."""
    torch.manual_seed(seed)
    more: dict[str, Any] = {"num_key_value_heads": 1, "tie_word_embeddings": True, "initializer_range": 0.2}
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **more, **SIZES)
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer(pad_token="[PAD]", eos_token="[SEP]").save_pretrained(folder)
    spec = toy_spec(labels=(), head=HeadSpec("lm"))
    return _teach_topics(LanguageModelHead.load(folder, spec, torch.float32), folder, steps, seed, lr=5e-3)


def _teach_topics(head: Head, folder: Path, steps: int, seed: int, lr: float = 2e-3) -> Path:
    """Train a head on sentences about films (label 0) and meals (1), and save its model."""
    examples = [
        Example((row["text"],), label)
        for label, things in enumerate((FILMS, MEALS))
        for row in toy_rows(8 * steps, seed + label, things)
    ]
    random.Random(seed).shuffle(examples)
    optimizer = torch.optim.AdamW(head.model.parameters(), lr=lr)
    head.model.eval()
    for step in range(steps):
        head.loss(examples[16 * step : 16 * step + 16]).backward()
        optimizer.step()
        optimizer.zero_grad()
    head.model.save_pretrained(folder)
    return folder


def copy_with(source: Path, folder: Path, change: Any, dtype: torch.dtype = torch.float32) -> Path:
    """A copy of a BERT folder after `change(name, tensor)` was called on each parameter."""
    model = AutoModel.from_pretrained(source, dtype=dtype)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            change(name, tensor)
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def write_rounded(base: Path, folder: Path) -> tuple[Path, Path, str]:
    """A base with an fp32 norm among bf16 weights, what a training makes of it that saves all in bf16 and moves two
    entries, and the name of the tensor that they are in.
    """
    mixed, tuned = (copy_with(base, folder / name, lambda *_: None, torch.bfloat16) for name in ("mixed", "rounded"))
    tensors = load_file(mixed / "model.safetensors")
    norm, matrix = "encoder.layer.0.output.LayerNorm.weight", "encoder.layer.0.attention.self.query.weight"
    wide = 1 + torch.rand(tensors[norm].shape, generator=torch.Generator().manual_seed(0)) / 8
    save_file({**tensors, norm: wide}, mixed / "model.safetensors", metadata={"format": "pt"})
    tensors[norm] = wide.bfloat16()
    tensors[matrix].view(-1)[:2] += 1
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    return mixed, tuned, matrix


@contextlib.contextmanager
def inputs_of(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The token ids (n, tokens) of each batch that a model is given within the block."""
    batches: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        batches.append(inputs["input_ids"])

    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield batches
    finally:
        hook.remove()
