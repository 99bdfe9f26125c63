"""Putting a patch on a live Llama of 1.1B parameters in bf16 and taking it off, against the bare writes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import torch
import transformers

import graft
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import as_bits, spec_of, take
from graft.tensors.hashing import hash_values
from graft.tensors.scope import is_layer_name
from tests.benchmarks.timing import time_in_turn

DENSITIES = (1e-5, 1e-4, 1e-3)


def measure(device: str = "cpu", runs: int = 25) -> list[dict[str, object]]:
    """One row per density: milliseconds of each operation, ratios to the bare writes, weights changed at the end."""
    model = make_llama(device)
    return [_measure(model, density, device, runs) for density in DENSITIES]


def make_llama(device: str, layers: int = 22) -> transformers.LlamaForCausalLM:
    """TinyLlama's geometry; weights of about 0.02, the same million over and over, so that no copy need be kept."""
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=device).eval()
    restore_weights(model)
    return model


def restore_weights(model: torch.nn.Module) -> None:
    """Give every weight its value of `make_llama`."""
    for part, made in _parts(model):
        part.copy_(made)


def count_changed(model: torch.nn.Module) -> int:
    """Weights whose bits are not those of `make_llama`."""
    return sum(int((as_bits(part) != as_bits(made)).sum()) for part, made in _parts(model))


def _parts(model: torch.nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every stretch of the weights, and what it was made of."""
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    draw = (0.02 * torch.randn(2**20, generator=generator)).to(weights[0].device, torch.bfloat16)
    for weight in weights:
        for part in weight.detach().view(-1).split(len(draw)):
            yield part, draw[: len(part)]


def draw_patch(model: torch.nn.Module, density: float, seed: int = 0) -> Patch:
    """Entries spread over the layers' matrices, that share of the model's parameters in all; values a little larger."""
    weights = {name: weight.detach() for name, weight in model.named_parameters() if is_layer_name(name)}
    weights = {name: weight for name, weight in weights.items() if weight.dim() > 1}
    share = density * sum(weight.numel() for weight in model.parameters()) / sum(w.numel() for w in weights.values())
    generator = np.random.default_rng(seed)
    indices = {name: generator.integers(0, w.numel(), round(share * w.numel())) for name, w in weights.items()}
    mask = Mask.of({name: spec_of(weight) for name, weight in weights.items()}, indices)
    before = {name: take(weights[name], torch.tensor(mask[name])).cpu() for name in mask}
    prints = {name: hash_values(value) for name, value in before.items()}
    return Patch(mask, {name: value * 1.5 + 0.01 for name, value in before.items()}, prints)


def _measure(model: torch.nn.Module, density: float, device: str, runs: int) -> dict[str, object]:
    patch = draw_patch(model, density)
    weights = dict(model.named_parameters())
    writes = [
        (
            as_bits(weights[name].detach()).view(-1),
            torch.tensor(patch.mask[name], device=device),
            as_bits(patch.values[name]).to(device),
        )
        for name in patch.mask
    ]
    originals = [(flat, places, flat[places]) for flat, places, _ in writes]
    prepared, in_force = graft.prepare_patch(model, patch), []
    gc.collect()
    times = time_in_turn(
        [
            ("bare", lambda: [flat.index_copy_(0, places, values) for flat, places, values in writes]),
            ("", lambda: [flat.index_copy_(0, places, values) for flat, places, values in originals]),
            ("apply", lambda: in_force.append(prepared.apply())),
            ("revert", lambda: in_force.pop().revert()),
        ],
        runs,
        device,
    )
    first = time_in_turn(
        [("first", lambda: in_force.append(graft.apply_patch(model, patch))), ("", lambda: in_force.pop().revert())],
        5,
        device,
    )
    bare, apply, revert = times["bare"], times["apply"], times["revert"]
    return {
        "density": f"{density:g}",
        "entries": len(patch),
        "bare index_copy_, ms": round(bare, 2),
        "apply, ms": round(apply, 2),
        "× bare": round(apply / bare, 2),
        "revert, ms": round(revert, 2),
        "revert × bare": round(revert / bare, 2),
        "both × bare": round((apply + revert) / bare, 2),
        "first apply, with verification, ms": round(first["first"], 1),
        "weights changed after undo": count_changed(model),
    }
