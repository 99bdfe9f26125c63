"""Every kind of adapter that PEFT saves for LoRA: the model that it merges, bit for bit, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from graft.errors import CheckpointError, MismatchError
from graft.interop.importing import import_patch
from graft.patch.live import apply_patch
from tests.checkpoints import equal_tensors, save_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's own, of ties and of embeddings saved along


def tiny_llama(*, tied: bool, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    more = {"attention_bias": True, "tie_word_embeddings": tied, "dtype": dtype}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, num_hidden_layers=2, **sizes, **more)).to(dtype)


def tiny_gpt2(*, tied: bool, dtype: torch.dtype) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 16, "vocab_size": 16, "n_inner": 12}
    more = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": tied, "dtype": dtype}
    return GPT2LMHeadModel(GPT2Config(**sizes, **more)).to(dtype)


Q = {"target_modules": ["q_proj"]}
C = {"target_modules": ["c_attn"]}
EQUAL: dict[str, dict[str, Any]] = {
    "all linear layers": {"target_modules": "all-linear"},
    "an alpha that is no whole number": {**Q, "lora_alpha": 2.7},
    "rank-stabilized, with a pattern": {"target_modules": ["q_proj", "k_proj"], "use_rslora": True}
    | {"rank_pattern": {"k_proj": 3}},
    "patterns": {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 3}}
    | {"alpha_pattern": {"layers.1.self_attn.k_proj": 7}},
    "one layer": {**Q, "layers_to_transform": [1], "layers_pattern": "layers"},
    "an expression": {"target_modules": r".*\.1\..*q_proj"},
    "some left out": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "an embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "the head": {"target_modules": ["lm_head"]},
    "all biases": {**Q, "bias": "all"},
    "its layers' biases": {**Q, "bias": "lora_only"},
    "a bias of the factors": {**Q, "lora_bias": True, "lora_alpha": 3},
    "tokens": {**Q, "trainable_token_indices": [1, 3]},
    "tokens of a named embedding": {**Q, "trainable_token_indices": {"embed_tokens": [5, 0, 9]}},
    "a norm saved": {**Q, "modules_to_save": ["norm"]},
    "a block saved": {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["layers.1.mlp"]},
    "tied modules saved together": {**Q, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "orthogonal start": {**Q, "init_lora_weights": "orthogonal"},
    "Gaussian start": {**Q, "init_lora_weights": "gaussian"},
    "random start": {**Q, "init_lora_weights": False},
    "a task": {**Q, "task_type": "CAUSAL_LM"},
    "gpt2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    "gpt2, flag left out": {"target_modules": "all-linear"},
    "gpt2, flag turned over by the head": {"target_modules": ["c_attn", "c_proj", "lm_head"]},
    "gpt2, embedding and square layers": {"target_modules": ["wte", "c_proj"]},
    "gpt2, all biases": {**C, "bias": "all"},
    "gpt2, its layers' biases": {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only"},
    "gpt2, a norm saved": {**C, "modules_to_save": ["ln_f"]},
}
UNTIED: dict[str, dict[str, Any]] = {  # tied they are one tensor that PEFT makes two of, or moves twice
    "the head saved": {**Q, "modules_to_save": ["lm_head"]},
    "the embedding saved": {**Q, "modules_to_save": ["embed_tokens"]},
    "both saved": {**Q, "modules_to_save": ["embed_tokens", "lm_head"]},
    "both targeted": {"target_modules": ["embed_tokens", "lm_head"]},
    "both targeted and tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "gpt2, the embedding saved": {**C, "modules_to_save": ["wte"]},
    "gpt2, the head saved": {**C, "modules_to_save": ["lm_head"], "bias": "all"},
    "gpt2, both targeted": {"target_modules": ["wte", "lm_head"]},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({**Q, "use_dora": True}, "use_dora"),
    "parameters": ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, "target_parameters"),
    "PiSSA": ({**Q, "init_lora_weights": "pissa"}, "'pissa', which rewrites the base"),
    "PiSSA by iterations": ({**Q, "init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which rewrites"),
    "OLoRA": ({**Q, "init_lora_weights": "olora"}, "'olora', which rewrites the base"),
    "layers repeated": ({**Q, "layer_replication": [[0, 2], [0, 1]]}, "layer_replication"),
    "aLoRA": ({**Q, "alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"}, "alora_invocation_tokens"),
    "QALoRA": ({**Q, "use_qalora": True, "qalora_group_size": 2}, "use_qalora"),
}


def adapted(kind: str, how: dict[str, Any], folder: Path, *, tied: bool, dtype: torch.dtype, **saving: Any) -> None:
    """A base and an adapter with random tensors, as PEFT saves it."""
    make = tiny_gpt2 if kind.startswith("gpt2") else tiny_llama
    save_model(make(tied=tied, dtype=dtype), folder / "base")
    model = get_peft_model(loaded(folder, dtype), LoraConfig(**({"r": 2} | how)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "adapter", **saving)


def loaded(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype)


def named(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


def check_equal(folder: Path, dtype: torch.dtype) -> None:
    merged = named(PeftModel.from_pretrained(loaded(folder, dtype), folder / "adapter").merge_and_unload())
    model = loaded(folder, dtype)
    assert not equal_tensors(named(model), merged)  # the control
    apply_patch(model, import_patch(folder / "adapter", "lora", str(folder / "base")))
    assert equal_tensors(named(model), merged)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", EQUAL)
def test_it_is_the_model_that_peft_merges(kind: str, tied: bool, tmp_path: Path) -> None:
    dtype = torch.bfloat16 if len(kind) % 2 else torch.float32
    adapted(kind, EQUAL[kind], tmp_path, tied=tied, dtype=dtype)
    check_equal(tmp_path, dtype)


@pytest.mark.parametrize("kind", UNTIED)
def test_tied_modules_that_part_are_refused(kind: str, tmp_path: Path) -> None:
    adapted(kind, UNTIED[kind], tmp_path / "untied", tied=False, dtype=torch.bfloat16)
    check_equal(tmp_path / "untied", torch.bfloat16)
    adapted(kind, UNTIED[kind], tmp_path / "tied", tied=True, dtype=torch.bfloat16)
    with pytest.raises(MismatchError, match=r"(embed_tokens|wte|lm_head)\.weight' (as a copy of its own|with another)"):
        import_patch(tmp_path / "tied" / "adapter", "lora", str(tmp_path / "tied" / "base"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embeddings_saved_along_are_the_bases_own(tied: bool, tmp_path: Path) -> None:
    adapted("llama", Q, tmp_path, tied=tied, dtype=torch.float32, save_embedding_layers=True)
    check_equal(tmp_path, torch.float32)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_arithmetic_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    how, fact = REFUSED[kind]
    adapted(kind, how, tmp_path, tied=False, dtype=torch.float32)
    with pytest.raises(CheckpointError, match=fact):
        import_patch(tmp_path / "adapter", "lora", str(tmp_path / "base"))


def test_shira_keeps_modules_apart_as_lora_does(tmp_path: Path) -> None:
    for tied in (False, True):
        folder = tmp_path / str(tied)
        save_model(tiny_llama(tied=tied, dtype=torch.float32), folder / "base")
        config = ShiraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
        model = get_peft_model(loaded(folder, torch.float32), config)
        with torch.no_grad():
            model.base_model.model.lm_head.modules_to_save["default"].weight.add_(0.5)
        model.save_pretrained(folder / "adapter")
    patch = import_patch(tmp_path / "False" / "adapter", "shira", str(tmp_path / "False" / "base"))
    assert set(patch.mask) == {"lm_head.weight"}
    with pytest.raises(MismatchError, match=r"lm_head\.weight' as a copy of its own"):
        import_patch(tmp_path / "True" / "adapter", "shira", str(tmp_path / "True" / "base"))
