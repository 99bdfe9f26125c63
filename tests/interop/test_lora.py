"""A LoRA adapter as a patch: what PEFT merges, bit for bit, or its largest movements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from graft.errors import BudgetError, CheckpointError, MismatchError
from graft.interop.importing import import_patch
from graft.patch.live import apply_patch
from graft.tensors.dtypes import same_bits
from tests.checkpoints import equal_tensors, save_model, small_classifier, small_llama
from tests.interop.bases import DTYPES, TOKENS

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 3},
    "rank-stabilized": {"target_modules": ["v_proj"], "use_rslora": True, "lora_alpha": 5},
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {"k_proj": 3, "layers.1.mlp.up_proj": 1},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 9, "up_proj": 7},
    },
    "embedding": {"target_modules": ["embed_tokens", "o_proj"], "lora_alpha": 2},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def adapt(model: PreTrainedModel, folder: Path, **how: Any) -> Path:
    """An adapter with random factors, as PEFT saves it."""
    adapted = get_peft_model(model, LoraConfig(**({"r": 2} | how)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def adapted_llama(folder: Path, dtype: torch.dtype, **how: Any) -> tuple[Path, Path]:
    model = small_llama(tied=False, dtype=dtype)
    base = save_model(model, folder / "base")
    return base, adapt(model, folder / "adapter", **how)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_what_peft_merges(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base, adapter = adapted_llama(tmp_path, dtype, **VARIANTS[variant])
    patch = import_patch(adapter, "lora", str(base))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    plain = model(TOKENS).logits
    other = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(other, adapter).merge_and_unload()
    with apply_patch(model, patch):
        assert equal_tensors(dict(model.named_parameters()), dict(merged.named_parameters()))
        assert torch.equal(model(TOKENS).logits, merged(TOKENS).logits)
    assert not torch.equal(merged(TOKENS).logits, plain)
    assert patch.provenance.method["from"] == "lora"


def test_transposed_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16, "vocab_size": 16, "n_inner": 12}
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))
    base = save_model(model, tmp_path / "base")
    adapter = adapt(model, tmp_path / "adapter", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    patch = import_patch(adapter, "lora", str(base))
    merged = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), adapter).merge_and_unload()
    with apply_patch(model, patch):
        assert equal_tensors(dict(model.named_parameters()), dict(merged.named_parameters()))


def test_a_head_that_the_base_lacks_comes_whole(tmp_path: Path) -> None:
    model = small_classifier()
    base = save_model(model.bert, tmp_path / "base")
    how = {"target_modules": ["query"], "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    patch = import_patch(adapt(model, tmp_path / "adapter", **how), "lora", str(base))
    assert set(patch.dense) == {"classifier.weight", "classifier.bias"}
    assert all(name.startswith("encoder.layer.") for name in patch.mask)


def test_a_budget_keeps_the_largest_movements(tmp_path: Path) -> None:
    base, adapter = adapted_llama(tmp_path, torch.float32, **VARIANTS["plain"])
    whole = import_patch(adapter, "lora", str(base), with_base_values=True)
    small = import_patch(adapter, "lora", str(base), budget=37)
    assert whole.base_values is not None
    steps = {name: (whole.values[name] - whole.base_values[name]).abs() for name in whole.mask}
    threshold = torch.cat(list(steps.values())).sort(descending=True).values[36]
    kept = {name: torch.tensor(whole.mask[name])[step >= threshold].tolist() for name, step in steps.items()}
    assert len(small) == 37
    assert {name: small.mask[name].tolist() for name in small.mask} == {name: kept[name] for name in kept if kept[name]}
    for name in small.mask:
        at = torch.isin(torch.tensor(whole.mask[name]), torch.tensor(small.mask[name]))
        assert same_bits(whole.values[name][at], small.values[name])
    n = small.provenance.base.n_parameters
    assert len(import_patch(adapter, "lora", str(base), density=10 / n)) == 10
    with pytest.raises(BudgetError, match=r"only|fewer"):
        import_patch(adapter, "lora", str(base), budget=n)


def with_config(adapter: Path, **changes: Any) -> Path:
    """A copy of an adapter with another config."""
    copy = adapter.parent / "changed"
    copy.mkdir(exist_ok=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | changes))
    (copy / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    return copy


def test_variants_with_another_arithmetic_are_refused(tmp_path: Path) -> None:
    base, adapter = adapted_llama(tmp_path, torch.float32, **VARIANTS["patterns"])
    assert len(import_patch(with_config(adapter), "lora", str(base)))
    for changes, fact in (
        ({"use_dora": True}, "use_dora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "rewrites the base"),
        ({"r": 5, "rank_pattern": {}}, r"factors of rank \d, the adapter.s config says 5"),
        ({"peft_type": "IA3"}, "type 'IA3', not LORA"),
        ({"lora_alpha": "x", "alpha_pattern": {}}, "lora_alpha is 'x'"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "too involved"),
        ({"alpha_pattern": {"(": 1}}, "not an expression"),
        ({"alpha_pattern": [1]}, "no table"),
        ({"alpha_pattern": {"a" * 501: 1}}, "too involved"),
    ):
        with pytest.raises(CheckpointError, match=fact):
            import_patch(with_config(adapter, **changes), "lora", str(base))


def test_adapters_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    base, adapter = adapted_llama(tmp_path, torch.float32, **VARIANTS["plain"])
    file = adapter / "adapter_model.safetensors"
    good = load_file(file)
    a = next(key for key in good if key.endswith("q_proj.lora_A.weight"))
    for change, kind, fact in (
        ({a: torch.ones(2, 9)}, MismatchError, r"q_proj.weight' has shape \[8, 8\] in the base, \[8, 9\]"),
        ({a: torch.ones(3, 8)}, CheckpointError, "make no LoRA"),
        ({a: torch.ones(0, 8)}, CheckpointError, "make no LoRA"),
        ({a: torch.full((2, 8), torch.inf)}, CheckpointError, "NaN or infinite"),
        ({a.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(8)}, CheckpointError, "not known here"),
        ({a.replace("layers.0", "layers.7").replace("_A", "_B"): torch.ones(8, 2)}, CheckpointError, "has only"),
    ):
        save_file(good | change, file)
        with pytest.raises(kind, match=fact):
            import_patch(adapter, "lora", str(base))
    save_file({key: torch.zeros_like(tensor) for key, tensor in good.items()}, file)
    with pytest.raises(BudgetError, match="changes nothing"):
        import_patch(adapter, "lora", str(base))
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: cannot be read"):
        import_patch(adapter, "lora", str(base))
