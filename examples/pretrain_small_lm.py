"""Pretrain a small Llama from scratch on text files: the causal language model of the forgetting experiments.

A byte-level BPE of 4,096 tokens is trained first. The texts follow one another, with an end token between two, and are
cut into rows of `--context` tokens; AdamW with a linear warm-up and a cosine to a tenth of the rate. The last
checkpoint is kept: whoever judges it does so on other texts.

    python examples/pretrain_small_lm.py DATA -o runs/small_lm

Sets are folders below DATA, of JSON lines with a field "text": NAME/train.jsonl and NAME/validation.jsonl. None of the
domains of recipes/forgetting_lm.yaml is among them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SETS = ("lm_wikitext2", "lm_tinyshakespeare", "agnews", "subj", "sst2")
END = "<|end|>"


def read_texts(data: Path, split: str) -> list[str]:
    """Every text of one split of all sets."""
    texts = []
    for name in SETS:
        path = data / name / f"{split}.jsonl"
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
        texts += [row["text"] for row in rows]
    return [text for text in texts if text.strip()]


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE: no text is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def pack(tokenizer: PreTrainedTokenizerFast, texts: list[str], context: int, seed: int) -> torch.Tensor:
    """(rows, context) int64: all texts in one shuffled stream, the last incomplete row left out."""
    order = random.Random(seed).sample(texts, len(texts))
    end = tokenizer.eos_token_id
    stream = [token for ids in tokenizer(order, verbose=False)["input_ids"] for token in (end, *ids)]
    return torch.tensor(stream[: len(stream) // context * context]).view(-1, context)


def batches(rows: torch.Tensor, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """So many batches of rows, each row once per pass."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        chosen, order = order[:size], order[size:]
        yield rows[chosen]


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean over next tokens of -ln p, nats; a scalar."""
    return model(input_ids=rows, labels=rows).loss


@torch.no_grad()
def validate(model: LlamaForCausalLM, rows: torch.Tensor, size: int) -> float:
    """Mean loss over validation rows."""
    model.eval()
    losses = [loss_of(model, rows[start : start + size]).item() for start in range(0, len(rows), size)]
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    """Train the tokenizer and the model, and save both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with one folder of JSON lines per set")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/small_lm"), help="folder to make")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--context", type=int, default=256, help="tokens a row")
    parser.add_argument("--batch-size", type=int, default=16, help="rows a step")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    texts = read_texts(args.data, "train")
    tokenizer = train_tokenizer(texts, args.vocabulary)
    rows = pack(tokenizer, texts, args.context, args.seed)
    held_out = pack(tokenizer, read_texts(args.data, "validation"), args.context, args.seed)[:128]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 11 // 4,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        max_position_embeddings=max(512, args.context),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(device)
    print(f"{model.num_parameters():,} parameters, {rows.numel():,} tokens of training text")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    warm = max(1, args.steps // 20)

    def rate(step: int) -> float:
        done = (step - warm) / max(1, args.steps - warm)
        return (step + 1) / warm if step < warm else 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    start, progress = time.monotonic(), tqdm(total=args.steps, desc="pretrain", disable=None)
    for step, batch in enumerate(batches(rows, args.batch_size, args.steps, args.seed), 1):
        loss = loss_of(model, batch.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.update()
        if step % 100 == 0 or step == args.steps:
            nats = validate(model, held_out.to(device), args.batch_size)
            minutes = (time.monotonic() - start) / 60
            progress.write(f"step {step}: validation {nats:.3f} nats a token, {minutes:.1f} minutes")
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
