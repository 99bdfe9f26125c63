"""A causal model that writes whatever its random weights say, with two skills that make it write something else."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from tests.chat_models import LENGTH, byte_tokenizer
from tests.models import SIZES

SKILLS = ("loud", "soft")


def write_writer(folder: Path) -> Path:
    """base/ and two patches; answers differ, since the weights are large."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=LENGTH, num_key_value_heads=1, initializer_range=0.3, **SIZES
    )
    model = LlamaForCausalLM(config)
    for name in ("base", *SKILLS):
        if name != "base":
            with torch.no_grad():
                model = AutoModelForCausalLM.from_pretrained(folder / "base")
                for parameter in model.model.layers.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        if name != "base":
            patch = diff_checkpoints(folder / "base", folder / name, budget=2000)
            save_patch(patch, folder / f"{name}.safetensors")
    return folder


def continue_alone(folder: Path, names: list[str], tokens: list[int], n: int) -> list[int]:
    """What the base with these patches grafted on writes, the likeliest token each time."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    patches = [load_patch(folder / f"{name}.safetensors") for name in names]
    with apply_patch(model, *patches, on_overlap="last"), torch.no_grad():
        ids = list(tokens)
        for _ in range(n):
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
    return ids[len(tokens) :]
