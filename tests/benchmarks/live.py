"""Putting a patch on a live Llama of 1.1B parameters in bf16 and taking it off, against the bare writes."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import numpy as np
import torch
import transformers

import graft
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import as_bits, spec_of, take
from graft.tensors.prints import print_of
from graft.tensors.scope import is_layer_name
from tests.benchmarks.timing import time_in_turn

DENSITIES = (1e-5, 1e-4, 1e-3)


def measure(device: str = "cpu", runs: int = 41) -> list[dict[str, object]]:
    """One row per density: milliseconds of each operation, ratios to the bare writes, weights changed at the end."""
    model = make_llama(device)
    return [_measure(model, density, device, runs) for density in DENSITIES]


def make_llama(device: str, layers: int = 22) -> transformers.LlamaForCausalLM:
    """TinyLlama's geometry with random weights of about 0.02."""
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=device).eval()
    torch.manual_seed(0)
    draw = 0.02 * torch.randn(2**20, device=device)
    for weight in model.parameters():  # the same draw over and over: a billion normals would take half a minute
        flat = weight.detach().view(-1)
        for start in range(0, flat.numel(), draw.numel()):
            part = flat[start : start + draw.numel()]
            part.copy_(draw[: part.numel()])
    return model


def draw_patch(model: torch.nn.Module, density: float) -> Patch:
    """Entries spread over the layers' matrices, that share of the model's parameters in all; values a little larger."""
    weights = {name: weight.detach() for name, weight in model.named_parameters() if is_layer_name(name)}
    weights = {name: weight for name, weight in weights.items() if weight.dim() > 1}
    share = density * sum(weight.numel() for weight in model.parameters()) / sum(w.numel() for w in weights.values())
    generator = np.random.default_rng(0)
    indices = {name: generator.integers(0, w.numel(), round(share * w.numel())) for name, w in weights.items()}
    mask = Mask.of({name: spec_of(weight) for name, weight in weights.items()}, indices)
    before = {name: take(weights[name], torch.tensor(mask[name])).cpu() for name in mask}
    prints = {name: print_of(value) for name, value in before.items()}
    return Patch(mask, {name: value * 1.5 + 0.01 for name, value in before.items()}, prints)


def copy_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def count_changed(model: torch.nn.Module, copies: Mapping[str, torch.Tensor]) -> int:
    """Weights whose bits are not those of the copies."""
    pairs = ((weight.detach(), copies[name]) for name, weight in model.named_parameters())
    return sum(int((as_bits(now) != as_bits(then)).sum()) for now, then in pairs)


def _measure(model: torch.nn.Module, density: float, device: str, runs: int) -> dict[str, object]:
    patch, copies = draw_patch(model, density), copy_weights(model)
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
    fitted, in_force = graft.fit_patch(model, patch), []
    gc.collect()
    times = time_in_turn(
        [
            ("bare", lambda: [flat.index_copy_(0, places, values) for flat, places, values in writes]),
            ("", lambda: [flat.index_copy_(0, places, values) for flat, places, values in originals]),
            ("apply", lambda: in_force.append(fitted.apply())),
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
        "weights changed after undo": count_changed(model, copies),
    }
