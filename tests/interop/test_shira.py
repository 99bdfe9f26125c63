"""A patch as a SHiRA adapter: the installed PEFT loads it, and computes with the patch's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, ShiraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from graft.errors import CheckpointError, MismatchError, PatchError
from graft.interop.exporting import export_patch
from graft.interop.importing import import_patch
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits
from tests.checkpoints import bits_of, equal_tensors, save_model, small_llama
from tests.interop.bases import DTYPES, TOKENS, bert_pair, is_linear, llama_pair, moved, stored_patch

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # PEFT leaves them as they are


def exported(folder: Path, base: Path, tuned: Path, **how: Any) -> Path:
    export_patch(stored_patch(base, tuned), "shira", folder / "adapter", base=str(base), **how)
    return folder / "adapter"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_peft_computes_with_the_grafted_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype, where=is_linear)
    patch = stored_patch(base, tuned)
    done = export_patch(patch, "shira", tmp_path / "adapter", base=str(base))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    plain = model(TOKENS).logits
    with apply_patch(model, patch):
        wanted, weights = model(TOKENS).logits, bits_of(model)
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    found = adapted(TOKENS).logits
    merged = adapted.merge_and_unload()
    assert not torch.equal(wanted, plain)
    if dtype == torch.bfloat16:
        assert done.n_missed == 0
        assert torch.equal(found, wanted)
        assert bits_of(merged) == weights
    else:  # as many entries differ as were counted, by no more than was said
        other = AutoModelForCausalLM.from_pretrained(tuned)
        off = [int((p != q).sum()) for p, q in zip(merged.parameters(), other.parameters(), strict=True)]
        assert sum(off) == done.n_missed
        assert 0 < done.n_missed < 0.4 * done.k
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
        assert done.largest_miss < 1e-7


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back_is_the_same_patch_where_differences_reach(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype, where=is_linear)
    patch = stored_patch(base, tuned)
    done = export_patch(patch, "shira", tmp_path / "adapter", base=str(base))
    back = import_patch(tmp_path / "adapter", "shira", str(base))
    assert back.mask == patch.mask  # what fills up SHiRA's places is gone
    off = [int((as_bits(back.values[name]) != as_bits(patch.values[name])).sum()) for name in patch.mask]
    assert sum(off) == done.n_missed
    assert back.base_prints == patch.base_prints
    assert (done.n_missed == 0) == (dtype == torch.bfloat16)


def test_an_adapter_that_peft_trained_and_saved_comes_in_bit_for_bit(tmp_path: Path) -> None:
    model = small_llama(tied=True, dtype=torch.bfloat16)
    base = save_model(model, tmp_path / "base")
    config = ShiraConfig(r=1, target_modules=["q_proj", "down_proj"], random_seed=1, init_weights=False)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    wanted = adapted(TOKENS).logits
    patch = import_patch(tmp_path / "adapter", "shira", str(base))
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "merged")
    grafted = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.bfloat16)
    assert len(patch) > 50
    assert torch.equal(grafted(TOKENS).logits, wanted)
    merged = adapted.merge_and_unload()
    assert equal_tensors(dict(grafted.named_parameters()), dict(merged.named_parameters()))


def test_the_live_models_names_are_used(tmp_path: Path) -> None:
    base, tuned = bert_pair(tmp_path, where=is_linear)
    exported(tmp_path, base, tuned)
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    other = AutoModel.from_pretrained(tuned)
    pairs = list(zip(merged.parameters(), other.parameters(), strict=True))
    assert all(torch.allclose(left, right, rtol=0, atol=1e-7) for left, right in pairs)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] >= 1


def test_stored_base_values_stand_in_for_the_base(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.bfloat16, where=is_linear)
    exported(tmp_path, base, tuned)
    patch = stored_patch(base, tuned, with_base_values=True)
    export_patch(patch, "shira", tmp_path / "again")
    file = "adapter_model.safetensors"
    assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "adapter" / file).read_bytes()


def test_strict_refuses_what_no_difference_reaches(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, where=is_linear)
    with pytest.raises(PatchError, match=r"shira: no difference reaches \d+ of \d+ values"):
        exported(tmp_path, base, tuned, strict=True)
    assert not (tmp_path / "adapter").exists()
    (tmp_path / "low").mkdir()
    base, tuned = llama_pair(tmp_path / "low", torch.bfloat16, where=is_linear)
    assert exported(tmp_path / "low", base, tuned, strict=True).is_dir()


@pytest.mark.parametrize("tied", [False, True])
def test_what_shira_cannot_hold_is_named_or_skipped(tied: bool, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.bfloat16, tied=tied, share=0.3)
    with pytest.raises(
        PatchError, match=r"cannot hold tensor '(model.embed_tokens|model.norm|lm_head).*weight': not the weight"
    ):
        exported(tmp_path, base, tuned)
    assert not (tmp_path / "adapter").exists()
    done = export_patch(stored_patch(base, tuned), "shira", tmp_path / "adapter", base=str(base), skip_unsupported=True)
    assert "lm_head.weight" not in done.skipped  # a layer of its own, or not listed beside what it is tied to
    assert {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"} <= done.skipped.keys()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    held = {name: p for name, p in AutoModelForCausalLM.from_pretrained(tuned).named_parameters() if is_linear(name)}
    assert all(torch.equal(p, merged.get_parameter(name)) for name, p in held.items())


def test_layers_that_ask_for_more_than_others_hold_are_named(tmp_path: Path) -> None:
    base = save_model(small_llama(tied=False, dtype=torch.bfloat16), tmp_path / "base")
    where = ("0.self_attn.q_proj.weight", "1.self_attn.k_proj.weight")  # 8 x 8 and 4 x 8
    dense = moved(small_llama(tied=False, dtype=torch.bfloat16), share=0.7, where=lambda name: name.endswith(where[0]))
    sparse = moved(dense, share=0.1, where=lambda name: name.endswith(where[1]))
    tuned = save_model(sparse, tmp_path / "tuned")
    with pytest.raises(PatchError, match=r"'model.layers.1.self_attn.k_proj.weight': too small for r = 3"):
        exported(tmp_path, base, tuned)
    full = moved(sparse, share=1, where=lambda name: name.endswith("k_proj.weight"))
    with pytest.raises(PatchError, match="has fewer places"):
        exported(tmp_path, base, save_model(full, tmp_path / "full"))


def test_hostile_adapters_are_refused_in_one_line(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.bfloat16, where=is_linear)
    exported(tmp_path, base, tuned)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    good = load_file(file)
    places = next(key for key in good if key.endswith("shira_indices"))
    values = places.replace("indices", "weight")
    for change, fact in (
        ({places: good[places] + 100}, "lies outside"),
        ({places: good[places] - 100}, "lies outside"),
        ({places: torch.zeros_like(good[places])}, "occurs twice"),
        ({places: good[places].flatten().clone()}, "SHiRA values"),
        ({values: good[values][:-1].clone()}, "SHiRA values"),
        ({values: good[values].to(torch.int32)}, "SHiRA values"),
        ({values: torch.full_like(good[values], torch.nan)}, "NaN"),
    ):
        save_file(good | change, file)
        with pytest.raises(CheckpointError, match=fact):
            import_patch(tmp_path / "adapter", "shira", str(base))
    save_file({key: tensor for key, tensor in good.items() if key != values}, file)
    with pytest.raises(CheckpointError, match="values or indices, not both"):
        import_patch(tmp_path / "adapter", "shira", str(base))
    save_file({key.replace("model.layers", "model.zebras"): tensor for key, tensor in good.items()}, file)
    with pytest.raises(MismatchError, match=r"lacks tensor 'model\.zebras"):
        import_patch(tmp_path / "adapter", "shira", str(base))
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="pickles are not read"):
        import_patch(tmp_path / "adapter", "shira", str(base))
