"""Adapters that added tokens, or a head of other outputs: imported whole, exported where a format holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, LlamaForCausalLM

from graft.errors import BudgetError, MismatchError, PatchError
from graft.interop.exporting import export_patch
from graft.interop.importing import import_patch
from graft.localize.movement import diff_checkpoints
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import bits_of, save_model, small_classifier, small_llama
from tests.models import WORDS, word_tokenizer

N = len(WORDS)
NAMES = {"lm_head.weight", "model.embed_tokens.weight"}


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """A base, a LoRA adapter of it with a token more, saved with its embeddings, and what PEFT merges."""
    model = small_llama(tied=False)
    model.resize_token_embeddings(N, mean_resizing=False)
    base, tokenizer = save_model(model, tmp_path / "base"), word_tokenizer()
    tokenizer.add_tokens(["<a>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft = get_peft_model(model, config)
    peft.save_pretrained(tmp_path / "lora", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "lora")
    return base, tmp_path / "lora", bits_of(peft.merge_and_unload())


def test_an_adapter_with_new_tokens_is_the_model_that_peft_merges(
    adapted: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    base, adapter, merged = adapted
    patch = import_patch(adapter, "lora", str(base))
    assert patch.dense.keys() == NAMES == set(patch.provenance.grown)
    assert all(growth.tokens == ("<a>",) for growth in patch.provenance.grown.values())
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "out")
    assert bits_of(LlamaForCausalLM.from_pretrained(tmp_path / "out")) == merged
    assert len(import_patch(adapter, "lora", str(base), budget=7)) == 7
    with pytest.raises(BudgetError, match=r"changes only \d+ of the base's own"):
        import_patch(adapter, "lora", str(base), budget=10**6)


def test_rows_for_a_part_of_the_vocabulary_alone_are_refused(
    adapted: tuple[Path, Path, dict[str, bytes]],
) -> None:
    base, adapter, _ = adapted
    file = adapter / "adapter_model.safetensors"
    kept = {key: tensor for key, tensor in load_file(file).items() if "lm_head" not in key}
    save_file(kept, file)
    with pytest.raises(MismatchError, match=r"adds 1 rows to 'model\.embed_tokens\.weight' and 0 to 'lm_head\.weight'"):
        import_patch(adapter, "lora", str(base))


def test_rows_for_what_is_no_vocabulary_are_refused(tmp_path: Path) -> None:
    base = save_model(small_llama(tied=False), tmp_path / "base")
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = Checkpoint.open(base).read(name)
    save_file({name: torch.cat([tensor + 1, tensor])}, tmp_path / "more.safetensors")
    with pytest.raises(MismatchError, match=r"up_proj\.weight' has shape \[12, 8\] in the base, \[24, 8\]"):
        import_patch(tmp_path / "more.safetensors", "dense", str(base))


@pytest.mark.parametrize("form", ["lora", "dense"])
def test_a_head_of_other_outputs_is_imported_whole(form: str, tmp_path: Path) -> None:
    encoder = small_classifier().bert
    base = save_model(small_classifier(encoder, 2), tmp_path / "base")
    tuned = small_classifier(encoder, 4)
    torch.manual_seed(1)
    more: dict[str, Any] = {"modules_to_save": ["classifier"], "init_lora_weights": False}
    peft: PeftModel = get_peft_model(tuned, LoraConfig(r=2, target_modules=["query"], **more))
    peft.save_pretrained(tmp_path / "lora")
    goal = peft.merge_and_unload()
    save_model(goal, tmp_path / "dense")
    patch = import_patch(tmp_path / form, form, str(base))
    assert {name: list(tensor.shape) for name, tensor in patch.dense.items()} == {
        "classifier.weight": [4, 8],
        "classifier.bias": [4],
    }
    live = BertForSequenceClassification.from_pretrained(base, num_labels=4, ignore_mismatched_sizes=True)
    with apply_patch(live, patch):
        assert bits_of(live) == bits_of(goal)


def test_formats_hold_new_rows_or_refuse_them_by_name(
    adapted: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    base, adapter, merged = adapted
    patch = import_patch(adapter, "lora", str(base))
    for form in ("shira", "vllm", "task-vector"):
        with pytest.raises(PatchError, match=rf"{form} cannot hold tensor 'lm_head\.weight'"):
            export_patch(patch, form, tmp_path / form, base=str(base))
    done = export_patch(patch, "vllm", tmp_path / "left", base=str(base), skip_unsupported=True)
    assert (set(done.skipped), done.dense) == (NAMES, 0)
    export_patch(patch, "state-dict", tmp_path / "state", base=str(base))
    held = load_file(tmp_path / "state")
    assert [len(held[name]) for name in sorted(NAMES)] == [N + 1, N + 1]
    assert bits_of(held).items() <= merged.items()
    assert bits_of(import_patch(tmp_path / "state", "dense", str(base)).dense) == bits_of(dict(patch.dense))


def test_a_dense_import_of_the_tuned_folder_is_its_difference(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    base = save_model(model, tmp_path / "base")
    model.resize_token_embeddings(20, mean_resizing=False)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 1
    tuned = save_model(model, tmp_path / "tuned")
    patch, cut = import_patch(tuned, "dense", str(base)), diff_checkpoints(base, tuned)
    assert patch.mask == cut.mask
    assert bits_of(dict(patch.dense)) == bits_of(dict(cut.dense))
    assert patch.provenance.grown == cut.provenance.grown
