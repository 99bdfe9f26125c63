"""Tiny decoders whose greedy tokens vary, patches of a few of their entries, and what grafting one by one generates."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import graft
from graft.mixture.generation.continuous_batch import ContinuousBatch
from graft.mixture.generation.request import GenerationRequest, TokenEvent
from graft.patch.skill_patch import Patch
from tests.checkpoints import make_patch

N_WORDS, N_LAYERS, LENGTH = 48, 4, 64
ALL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


@functools.cache
def decoder(kind: str) -> Any:
    """A model of four layers with large random weights; it is not written to but by grafts that are taken off."""
    torch.manual_seed(3)
    if kind == "gpt2":
        sizes: dict[str, Any] = {"n_positions": LENGTH, "n_embd": 16, "n_layer": N_LAYERS, "n_head": 2}
        return GPT2LMHeadModel(GPT2Config(vocab_size=N_WORDS, initializer_range=0.4, **sizes, **ALL)).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": LENGTH, "tie_word_embeddings": kind == "tied"}
    return LlamaForCausalLM(LlamaConfig(vocab_size=N_WORDS, initializer_range=0.4, **sizes, **ALL)).eval()


def change(model: Any, holds: Sequence[str], seed: int, share: float = 0.15) -> Patch:
    """A patch of that share of the entries of every parameter whose name holds one of these texts."""
    draw = torch.Generator().manual_seed(seed)
    tensors = dict(model.named_parameters())
    changes: dict[str, dict[int, float]] = {}
    for name, tensor in tensors.items():
        if any(text in name for text in holds):
            places = (torch.rand(tensor.numel(), generator=draw) < share).nonzero()[:, 0].tolist() or [0]
            changes[name] = {i: float(torch.randn(1, generator=draw)) for i in places}
    return make_patch({name: tensor.detach() for name, tensor in tensors.items()}, changes)


def layer(kind: str, number: int) -> str:
    """How the names of a layer's parameters begin."""
    return f"transformer.h.{number}." if kind == "gpt2" else f"model.layers.{number}."


@functools.cache
def patches_of(kind: str) -> dict[str, Patch]:
    """Skills that touch everything, two upper layers, the last norm, and the embedding."""
    model = decoder(kind)
    embedding = "wte" if kind == "gpt2" else "embed_tokens"
    norm = "ln_f" if kind == "gpt2" else "model.norm"
    return {
        "all": change(model, ["layers.", ".h."], 1, 0.05),
        "upper": change(model, [layer(kind, 2), layer(kind, 3)], 2),
        "norm": change(model, [norm], 3, 0.5),
        "words": change(model, [embedding], 4),
    }


def generate(kind: str, patches: Sequence[Patch], tokens: Sequence[int], n: int) -> list[int]:
    """What the grafted model generates of a text alone."""
    model, ids = decoder(kind), torch.tensor([tokens])

    def run() -> list[int]:
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)
        new: list[int] = generated[0, len(tokens) :].tolist()
        return new

    if not patches:
        return run()
    with graft.apply_patch(model, *patches, on_overlap="first"):
        return run()


def run_all(batch: ContinuousBatch, requests: Sequence[GenerationRequest]) -> dict[Any, list[int]]:
    """The tokens of requests that join together, until the batch is idle."""
    batch.join(requests)
    events: list[TokenEvent] = []
    while not batch.idle:
        events += batch.step()
    return collect(events)


def collect(events: Sequence[TokenEvent]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for event in events:
        found.setdefault(event.id, []).append(event.token)
    return found
