"""A patch as a LoRA adapter: what PEFT merges is the graft, bit for bit, and what it computes on the side is close."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from graft.errors import ConfigError, PatchError
from graft.interop.exporting import Exported, export_patch
from graft.interop.importing import import_patch
from graft.interop.lora_export import make_factors
from graft.localize.diff import diff_checkpoints
from graft.patch.live import apply_patch
from graft.patch.vertex_cover import cover_entries
from graft.tensors.dtypes import as_bits, same_bits
from tests.checkpoints import bits_of, save_model, small_classifier, small_llama
from tests.interop.bases import DTYPES, TOKENS, bert_pair, is_linear, llama_pair, moved, stored_patch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # about ties, and flags it turns over itself

SMALL_ROBERTA: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 24,
}  # fmt: skip


def exported(folder: Path, base: Path, tuned: Path, **how: Any) -> Exported:
    return export_patch(stored_patch(base, tuned), "lora", folder / "adapter", base=str(base), **how)


def check_merged(base: Path, adapter: Path, tuned: Path, dtype: torch.dtype, auto: Any, n_missed: int) -> None:
    """PEFT's merged model has the tuned one's bits, but for as many values as were said to be missed."""
    merged = PeftModel.from_pretrained(auto.from_pretrained(base, dtype=dtype), adapter).merge_and_unload()
    wanted = dict(auto.from_pretrained(tuned, dtype=dtype).named_parameters())
    plain = dict(auto.from_pretrained(base, dtype=dtype).named_parameters())
    found = dict(merged.named_parameters())
    assert found.keys() == wanted.keys()
    assert not all(same_bits(plain[name], wanted[name]) for name in wanted)  # the control
    off = sum(int((as_bits(found[name]) != as_bits(wanted[name])).sum()) for name in wanted)
    assert off == n_missed


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_peft_merges_the_graft_with_norms_and_rows_of_embeddings(
    dtype: torch.dtype, tied: bool, tmp_path: Path
) -> None:
    base, tuned = llama_pair(tmp_path, dtype, tied=tied)
    done = exported(tmp_path, base, tuned)
    assert not done.skipped
    assert (done.n_missed == 0) == (dtype == torch.bfloat16)
    assert done.n_missed < 0.4 * done.k
    check_merged(base, tmp_path / "adapter", tuned, dtype, AutoModelForCausalLM, done.n_missed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_biases_go_with_the_second_factors(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = bert_pair(tmp_path, where=lambda name: "position" not in name)
    if dtype == torch.bfloat16:
        for folder in (base, tuned):
            save_model(AutoModel.from_pretrained(folder, dtype=dtype), folder)
    done = exported(tmp_path, base, tuned)
    assert not done.skipped
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["lora_bias"]
    assert config["trainable_token_indices"]
    assert any(name.endswith("LayerNorm") for name in config["modules_to_save"])
    check_merged(base, tmp_path / "adapter", tuned, dtype, AutoModel, done.n_missed)


def test_layers_stored_transposed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16, "vocab_size": 16, "n_inner": 12}
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes)).to(torch.bfloat16)
    base, tuned = save_model(model, tmp_path / "base"), save_model(moved(model, share=0.2), tmp_path / "tuned")
    done = exported(tmp_path, base, tuned)
    assert (done.n_missed, dict(done.skipped)) == (0, {})
    check_merged(base, tmp_path / "adapter", tuned, torch.bfloat16, AutoModelForCausalLM, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_on_the_side_the_outputs_are_close_in_peft_and_in_transformers(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype, size=0.3)
    exported(tmp_path, base, tuned)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    plain = model(TOKENS).logits
    with apply_patch(model, stored_patch(base, tuned)):
        wanted = model(TOKENS).logits
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), tmp_path / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    loaded.load_adapter(str(tmp_path / "adapter"))
    bound = 16 * torch.finfo(dtype).eps * float(wanted.abs().max())
    assert float((plain - wanted).abs().max()) > 2 * bound  # the control
    for side in (adapted(TOKENS).logits, loaded(TOKENS).logits):
        assert float((side - wanted).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back_is_the_same_patch_where_differences_reach(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype)
    patch, done = stored_patch(base, tuned), exported(tmp_path, base, tuned)
    back = import_patch(tmp_path / "adapter", "lora", str(base))
    assert back.mask == patch.mask
    off = [int((as_bits(back.values[name]) != as_bits(patch.values[name])).sum()) for name in patch.mask]
    assert sum(off) == done.n_missed
    assert back.base_hashes == patch.base_hashes


def test_strict_refuses_missed_values_and_lost_signs(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, where=is_linear)
    with pytest.raises(PatchError, match=r"lora: no difference reaches \d+ of \d+ values"):
        exported(tmp_path, base, tuned, strict=True)
    model = small_llama(tied=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0] = -0.0
        model.model.layers[1].mlp.up_proj.weight[0] = -0.0  # untouched, and so without factors
    one = moved(model, where=lambda name: name.endswith("0.self_attn.q_proj.weight"))
    with torch.no_grad():
        one.model.layers[0].self_attn.q_proj.weight[0, :3] = torch.tensor([-0.0, 1.0, -0.0])
    base, tuned = save_model(model, tmp_path / "zeros"), save_model(one, tmp_path / "moved")
    done = exported(tmp_path, base, tuned)
    zeros = as_bits(one.model.layers[0].self_attn.q_proj.weight[0]) == as_bits(torch.tensor(-0.0).bfloat16())
    assert done.n_missed == 0
    assert done.lost_signs == int(zeros.sum()) > 1
    check_merged(base, tmp_path / "adapter", tuned, torch.bfloat16, AutoModelForCausalLM, done.lost_signs)
    with pytest.raises(PatchError, match=r"turns \d+ of the base's values from -0\.0 into \+0\.0"):
        exported(tmp_path, base, tuned, strict=True, force=True)


def test_a_rank_above_the_limit_is_refused_by_name(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.bfloat16, where=is_linear, share=0.3)
    with pytest.raises(PatchError, match=r"cannot hold tensor 'model.layers.0.*weight': needs rank \d, above --max-r"):
        exported(tmp_path, base, tuned, max_rank=2)
    assert not (tmp_path / "adapter").exists()
    config = exported(tmp_path, base, tuned, max_rank=8) and json.loads(
        (tmp_path / "adapter" / "adapter_config.json").read_text()
    )
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert config["r"] == config["lora_alpha"] <= 8
    with pytest.raises(ConfigError, match="shira has no factors whose rank could be limited: --max-rank is for lora"):
        export_patch(stored_patch(base, tuned), "shira", tmp_path / "other", base=str(base), max_rank=3)
    with pytest.raises(ConfigError, match="lora needs the base"):
        export_patch(stored_patch(base, tuned), "lora", tmp_path / "other")


@pytest.mark.parametrize("where", ["encoder", "LayerNorm"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_classifier_that_the_base_lacks_goes_whole(where: str, dtype: torch.dtype, tmp_path: Path) -> None:
    classifier = small_classifier().to(dtype)
    classifier.classifier.weight.data *= 50  # outputs that another head's could not be mistaken for
    base = save_model(classifier.bert, tmp_path / "base")
    tuned = save_model(moved(classifier, where=lambda name: where in name), tmp_path / "tuned")
    done = export_patch(diff_checkpoints(base, tuned), "lora", tmp_path / "adapter", base=str(base))
    assert (done.dense, dict(done.skipped)) == (2, {})
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert "classifier" in config["modules_to_save"]
    auto = AutoModelForSequenceClassification
    plain = auto.from_pretrained(base, num_labels=3, dtype=dtype)
    wanted = auto.from_pretrained(tuned, dtype=dtype)(TOKENS).logits
    assert not torch.allclose(plain(TOKENS).logits, wanted, atol=0.05)  # the control: its head is at random
    beside = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert torch.allclose(beside(TOKENS).logits, wanted, atol=1e-5 if dtype == torch.float32 else 0.03)
    merged = beside.merge_and_unload()
    off = [name for name, tensor in auto.from_pretrained(tuned, dtype=dtype).named_parameters()
           if not torch.equal(tensor, merged.get_parameter(name))]  # fmt: skip
    assert bool(off) == (done.n_missed > 0)
    assert not any(name.startswith("classifier") for name in off)


def test_a_head_of_several_modules_and_other_labels_replaces_the_bases(tmp_path: Path) -> None:
    config = RobertaConfig(**SMALL_ROBERTA, num_labels=2)
    base = save_model(RobertaForSequenceClassification(config), tmp_path / "base")
    other = RobertaForSequenceClassification(RobertaConfig(**SMALL_ROBERTA, num_labels=4))
    other.classifier.out_proj.weight.data *= 50
    other.roberta.load_state_dict(AutoModelForSequenceClassification.from_pretrained(base).roberta.state_dict())
    tuned = save_model(moved(other, where=lambda name: "layer.0" in name), tmp_path / "tuned")
    patch = diff_checkpoints(base, tuned)
    assert set(patch.dense) == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    export_patch(patch, "lora", tmp_path / "adapter", base=str(base))
    auto = AutoModelForSequenceClassification
    plain = auto.from_pretrained(base, num_labels=4, ignore_mismatched_sizes=True)
    wanted = auto.from_pretrained(tuned)(TOKENS).logits
    assert not torch.allclose(plain(TOKENS).logits, wanted, atol=0.01)
    assert torch.allclose(PeftModel.from_pretrained(plain, tmp_path / "adapter")(TOKENS).logits, wanted, atol=1e-5)


def test_what_an_adapter_cannot_hold_is_named_or_skipped(tmp_path: Path) -> None:
    classifier = small_classifier()
    base = save_model(classifier.bert, tmp_path / "base")
    tuned = save_model(moved(classifier, where=lambda name: "encoder" in name), tmp_path / "tuned")
    nameless = stored_patch(base, tuned)  # of a head that it does not describe
    with pytest.raises(PatchError, match=r"cannot hold tensor 'classifier\.bias': a whole tensor that the base lacks"):
        export_patch(nameless, "lora", tmp_path / "adapter", base=str(base))
    done = export_patch(nameless, "lora", tmp_path / "adapter", base=str(base), skip_unsupported=True)
    assert set(done.skipped) == {"classifier.weight", "classifier.bias"}
    merged = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "adapter").merge_and_unload()
    assert bits_of(merged) != bits_of(AutoModel.from_pretrained(base))


def test_norms_and_embeddings_alone_lean_on_an_idle_layer(tmp_path: Path) -> None:
    for where in ("norm", "embed"):
        folder = tmp_path / where
        base, tuned = llama_pair(folder, torch.bfloat16, where=lambda name, where=where: where in name, share=0.9)
        assert exported(folder, base, tuned).n_missed == 0
        check_merged(base, folder / "adapter", tuned, torch.bfloat16, AutoModelForCausalLM, 0)
        patch = stored_patch(base, tuned)
        assert import_patch(folder / "adapter", "lora", str(base)).mask == patch.mask


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_minimal_cover_gives_the_difference_exactly(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    n = shape[0] * shape[1]
    indices = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = torch.tensor([data.draw(numbers) for _ in indices], dtype=torch.float32)
    cover = cover_entries(indices, shape)
    left, right = make_factors(indices, values, shape, cover)
    wanted = torch.zeros(n).index_copy(0, torch.from_numpy(indices), values).reshape(shape)
    assert left.shape == (shape[0], cover.rank)
    assert right.shape == (cover.rank, shape[1])
    assert torch.equal(left @ right, wanted)
    support = np.zeros(n)
    support[indices] = np.random.default_rng(0).random(len(indices)) + 1  # in general position: no rank is lower
    assert cover.rank >= np.linalg.matrix_rank(support.reshape(shape))
