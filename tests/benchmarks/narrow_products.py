"""Time of products in bfloat16 by torch's own kernels, and in fp32 rounded once (`graft.tensors.wide_products`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch.nn.functional import linear

from graft.tensors.wide_products import multiplies_fast, register_products
from tests.benchmarks.timing import ratio_of, times_in_turn

ROUNDS = 9
SHAPES = {  # of SmolLM2: what -> rows, inputs, outputs
    "a layer up, 512 tokens": (512, 576, 1536),
    "the output layer, 64 tokens": (64, 576, 49152),
    "a layer up, 8 tokens": (8, 576, 1536),
}


def measure(rounds: int = ROUNDS) -> Iterator[dict[str, object]]:
    """Rows for single layers, forward and backward, and for a model's training step and forward pass."""
    for what, (rows, inputs, outputs) in SHAPES.items():
        states, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        narrow = [tensor.bfloat16().requires_grad_() for tensor in (states, weight)]
        wide = [tensor.float().detach().requires_grad_() for tensor in narrow]
        yield _row(f"{what}, forward", lambda n=narrow: linear(*n), lambda w=wide: linear(*w), rounds)
        yield _row(
            f"{what}, both passes",
            lambda n=narrow: linear(*n).sum().backward(),
            lambda w=wide: linear(*w).sum().backward(),
            rounds,
        )
    yield from _model_rows(max(1, rounds // 3))


def _model_rows(rounds: int) -> Iterator[dict[str, object]]:
    """Rows for a Llama of SmolLM2's width and vocabulary with 4 of its 30 layers, on 4 texts of 64 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True,
    )  # fmt: skip
    masters = LlamaForCausalLM(config)
    narrow = LlamaForCausalLM(config).bfloat16()
    tokens = torch.randint(0, config.vocab_size, (4, 64))

    def train(*, mixed: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = masters(input_ids=tokens, labels=tokens).loss
        loss.backward()
        masters.zero_grad()

    yield _row("4 layers, a mixed step", lambda: train(mixed=True), lambda: train(mixed=False), rounds)
    with torch.no_grad():
        yield _row("4 layers, evaluation", lambda: narrow(input_ids=tokens), lambda: masters(input_ids=tokens), rounds)


def _row(what: str, narrow: Callable[[], object], wide: Callable[[], object], rounds: int) -> dict[str, object]:
    held = SimpleNamespace(registration=None)

    def register(*dtypes: torch.dtype) -> None:
        held.registration = None
        held.registration = register_products(dtypes)

    steps = [
        ("", register),
        ("own", narrow),
        ("fp32", wide),
        ("", lambda: register(torch.bfloat16)),
        ("rounded", narrow),
    ]
    times = times_in_turn(steps, rounds)
    held.registration = None
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "run": what,
        "torch's own, ms": f"{medians['own']:.1f}",
        "in fp32, rounded, ms": f"{medians['rounded']:.1f}",
        "ratio to own": ratio_of(times["rounded"], times["own"]),
        "ratio to fp32": ratio_of(times["rounded"], times["fp32"]),
        "own instructions": "yes" if multiplies_fast(torch.bfloat16) else "no",
    }
