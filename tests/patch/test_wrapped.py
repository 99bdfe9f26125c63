"""Live models within wrappers: their weights are known by the names that they have without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoModelForCausalLM

import graft
from graft.patch.skill_patch import Patch
from graft.tensors.names import unwrap_name
from tests.models import write_llama


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "base")


@pytest.fixture
def patch(base: Path, tmp_path: Path) -> Patch:
    tuned = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        tuned.model.layers[1].self_attn.q_proj.weight[:2] += 0.5
        tuned.model.norm.weight[3] += 1.0
    tuned.save_pretrained(tmp_path / "tuned")
    return graft.diff_checkpoints(base, tmp_path / "tuned")


def as_peft(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


def as_checkpointed(model: Any) -> Any:
    model.model.layers[1] = checkpoint_wrapper(model.model.layers[1])
    return model


@pytest.mark.parametrize("wrap", [as_peft, as_checkpointed, torch.compile, torch.nn.DataParallel],
                         ids=["PeftModel", "checkpoint_wrapper", "compile", "DataParallel"])  # fmt: skip
def test_a_patch_finds_its_weights_within_a_wrapper_and_leaves_exactly(wrap: Any, base: Path, patch: Patch) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    weight = model.model.layers[1].self_attn.q_proj.weight
    before = weight.detach().clone()
    with graft.apply_patch(wrap(model), patch):
        assert torch.equal(weight[:2], before[:2] + 0.5)
    assert torch.equal(weight, before)


def test_a_peft_model_in_training_keeps_its_core(base: Path, patch: Patch) -> None:
    model = as_peft(AutoModelForCausalLM.from_pretrained(base))
    weight = model.get_base_model().model.layers[1].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1)
    with graft.protect(model, optimizer, [patch.mask]):
        model(input_ids=torch.arange(4, 12).view(1, -1)).logits.square().mean().backward()
        optimizer.step()
    changed = weight.detach() != before
    assert changed[2:].any(), "the control: other rows moved"
    assert not changed[:2].any()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base_model.model.model.layers.0.q_proj.base_layer.weight", "model.layers.0.q_proj.weight"),
        ("_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.q.weight", "model.layers.0.q.weight"),
        ("module._orig_mod.model.norm.weight", "model.norm.weight"),
        ("model.norm.weight", "model.norm.weight"),
    ],
)
def test_names_are_taken_out_of_their_wrappers(name: str, plain: str) -> None:
    assert unwrap_name(name) == plain
