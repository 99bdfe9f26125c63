"""Columns of layers that are stored transposed, and a shift in a model that has no biases and ties its output layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from graft.controls.application import put_on
from graft.controls.constant_shift import find_linear, shift_outputs
from graft.controls.inputs import ControlInput
from graft.controls.redrawn import redraw_rows
from graft.errors import ConfigError
from graft.localize.localization import localize_skill, open_base_head
from graft.patch.skill_patch import Patch
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.models import WORDS, toy_rows, word_tokenizer, write_causal, write_task


def move(model: torch.nn.Module, folder: Path) -> Path:
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn_like(tensor)
    return save(model, folder)


def save(model: torch.nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    word_tokenizer(pad_token="[PAD]", eos_token="[SEP]").save_pretrained(folder)
    return folder


def patch_of(base: Path, tuned: Path) -> Patch:
    return localize_skill(base, tuned, None, LocalizeSpec(method="magnitude", density=0.1, scope="all"))


def test_columns_of_a_transposed_layer_are_its_inputs_too(tmp_path: Path, task: Task) -> None:
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16, "vocab_size": 16, "n_inner": 12}
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))
    model.save_pretrained(tmp_path / "base")
    base, tuned = tmp_path / "base", move(model, tmp_path / "tuned")
    patch = patch_of(base, tuned)
    inputs = ControlInput("random_rows", patch, CheckpointPair.open(base, tuned), task)
    wide = next(name for name in inputs.matrices if name.endswith("c_fc.weight"))
    assert patch.mask.specs[wide].shape == (8, 12)  # (inputs, outputs)
    assert inputs.columns(wide, patch.mask[wide]).max() < 8 <= inputs.rows(wide, patch.mask[wide]).max()
    embedding = next(name for name in inputs.matrices if name.endswith("wte.weight"))
    assert (
        inputs.columns(embedding, patch.mask[embedding]).max()
        >= 8
        > inputs.rows(embedding, patch.mask[embedding]).max()
    )
    made = redraw_rows(inputs)
    assert sorted(inputs.columns(wide, made.mask[wide])) == sorted(inputs.columns(wide, patch.mask[wide]))
    assert made.mask != patch.mask


def test_a_shift_needs_no_bias_and_leaves_tied_weights_to_the_patch(tmp_path: Path) -> None:
    base = write_causal(tmp_path / "base", steps=2)
    tuned = move(LlamaForCausalLM.from_pretrained(base), tmp_path / "tuned")
    patch = patch_of(base, tuned)
    toy = Task.load(write_task(tmp_path / "toy", head={"kind": "lm"}, labels=[], ood={}))
    inputs = ControlInput("constant_shift", patch, CheckpointPair.open(base, tuned), toy)
    made = shift_outputs(inputs)
    tied = {name for name in patch.mask if "embed" in name}
    assert tied
    assert tied <= set(made.rest.mask)
    assert set(made.shifts) | set(made.rest.mask) == set(patch.mask)
    assert not any("bias" in name for name in inputs.pair.base.names)
    head = open_base_head(inputs.pair, toy, inputs.runtime)
    assert set(find_linear(head.model, inputs.matrices)) == set(made.shifts)
    example = toy.train_examples()[:1]
    with head.evaluating():
        before = head.loss(example)
        with put_on(head.model, made):
            assert head.loss(example) != before
        assert head.loss(example) == before
    assert made.k == patch.k


def test_a_layer_that_is_never_called_keeps_its_entries(tmp_path: Path) -> None:
    sizes: dict[str, int] = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 1, "time_step_rank": 4}
    model = MambaForCausalLM(MambaConfig(vocab_size=len(WORDS), **sizes))
    base = save(model, tmp_path / "base")
    tuned = move(model, tmp_path / "tuned")
    toy = Task.of(train=toy_rows(8, 0), validation=toy_rows(4, 1), head="lm")
    scope = r"mixer\.(dt|x)_proj\.weight$"
    patch = localize_skill(base, tuned, None, LocalizeSpec(method="magnitude", budget=200, scope=scope))
    made = shift_outputs(ControlInput("constant_shift", patch, CheckpointPair.open(base, tuned), toy))
    assert [name.split(".")[-2] for name in made.shifts] == ["x_proj"]
    assert [name.split(".")[-2] for name in made.rest.mask] == ["dt_proj"]
    with pytest.raises(ConfigError, match=r"dt_proj.weight': the sizes of its inputs cannot be measured"):
        localize_skill(base, tuned, toy, LocalizeSpec(method="wanda", budget=5, scope=scope))


def test_a_layer_that_computes_otherwise_is_not_shifted() -> None:
    class Conv1D(torch.nn.Module):  # of remote code, which stores its weight as (out, in), and does more
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4, 4))

    plain = transformers.pytorch_utils.Conv1D(4, 4)
    model = torch.nn.Sequential(Conv1D(), plain, torch.nn.Linear(4, 4))
    assert set(find_linear(model, [f"{i}.weight" for i in range(3)])) == {"1.weight", "2.weight"}
