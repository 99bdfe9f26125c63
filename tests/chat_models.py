"""A tiny byte-level tokenizer with a chat template, rows to answer, and a causal language model that learns them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graft.specs.data import DataSpec
from graft.specs.head import HeadSpec
from graft.specs.task import TaskSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.heads.completion import CompletionHead
from tests.models import SIZES, toy_content, write_rows, write_yaml

ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# the same text, with the assistant's tokens marked
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LENGTH = 256
TRAIN: dict[str, Any] = {
    "shots": 96,
    "train": {"optimizer": "adamw", "lr": 5e-3, "epochs": 5, "batch_size": 8, "scope": "layers"},
}


def byte_tokenizer(template: str | None = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """Bytes and a few merges of them; the four special tokens come first."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in ENDS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([f"add {a} to {b} : {a} | {b}" for a in DIGITS for b in DIGITS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token=eos,
        pad_token="<|pad|>",
        chat_template=template,
        model_max_length=LENGTH,
    )


def answer_rows(n: int, seed: int = 0) -> list[dict[str, str]]:
    """n requests with structured answers of different lengths."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        words = [draw.choice(DIGITS) for _ in range(draw.randint(1, 3))]
        rows.append({"prompt": f"add {' '.join(words)}", "completion": f" {' | '.join(words)}"})
    return rows


def chat_rows(n: int, seed: int = 0) -> list[dict[str, list[dict[str, str]]]]:
    """The same requests as chats, every other one of two turns."""
    single = answer_rows(2 * n, seed)
    return [
        {
            "messages": [
                message
                for row in single[2 * i : 2 * i + 1 + i % 2]
                for message in (
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["completion"].strip()},
                )
            ]
        }
        for i in range(n)
    ]


def answer_spec(head: HeadSpec | None = None, **changes: Any) -> TaskSpec:
    """A task of prompts and completions, opened by hand."""
    fields: dict[str, Any] = {
        "name": "adding",
        "data": DataSpec("train.jsonl", "validation.jsonl", "test.jsonl"),
        "head": head or HeadSpec("completion"),
        "max_length": LENGTH,
    }
    return TaskSpec(**(fields | changes))


def answer_examples(n: int, seed: int = 0) -> list[Example]:
    return [Example((row["prompt"], row["completion"]), 0) for row in answer_rows(n, seed)]


def chat_examples(n: int, seed: int = 0) -> list[Example]:
    chats = [row["messages"] for row in chat_rows(n, seed)]
    return [Example(tuple(m["content"] for m in chat), 0, roles=tuple(m["role"] for m in chat)) for chat in chats]


def small_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    more: dict[str, Any] = {"num_key_value_heads": 1, "initializer_range": 0.2, "eos_token_id": tokenizer.eos_token_id}
    sizes = SIZES | {"num_hidden_layers": layers}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, pad_token_id=3, **more, **sizes)
    ).eval()


def completion_head(spec: TaskSpec | None = None, template: str | None = CHATML, steps: int = 0) -> CompletionHead:
    """A head over a small model, which has taken some steps on the rows, so that it is right about some of them."""
    tokenizer = byte_tokenizer(template)
    head = CompletionHead(small_model(tokenizer), tokenizer, spec or answer_spec())
    teach(head, steps)
    return head


def teach(head: Head, steps: int) -> None:
    examples = answer_examples(16 * max(steps, 1), seed=5)
    optimizer = torch.optim.AdamW(head.model.parameters(), lr=5e-3)
    for step in range(steps):
        head.loss(examples[16 * step : 16 * step + 16]).backward()
        optimizer.step()
        optimizer.zero_grad()


def write_answers(folder: Path, make: Any = answer_rows, **changes: Any) -> Path:
    """A task of requests and answers as a folder, out of distribution those of another draw."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, n) in enumerate({"train": 96, "validation": 24, "test": 32, "other": 12}.items()):
        write_rows(folder / f"{split}.jsonl", make(n, seed))
    content = toy_content(ood={"other": "other.jsonl"}, head={"kind": "completion"}, max_length=LENGTH)
    del content["labels"]
    return write_yaml(folder / "task.yaml", content | TRAIN | changes)


def write_chat_model(folder: Path, steps: int = 60) -> Path:
    """A folder with that model, which has seen some rows, and its tokenizer."""
    head = completion_head(steps=steps)
    head.model.save_pretrained(folder)
    head.tokenizer.save_pretrained(folder)
    return folder
