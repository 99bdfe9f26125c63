"""The result read tensor by tensor is the folder that a merge writes: the same digest, the same tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from graft.errors import OverlapError, PatchMismatchError
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.merge import merge_patches
from graft.patch.overlap_rules import OverlapRule
from graft.patch.provenance import Provenance
from graft.patch.registry import OVERLAP_RULES
from graft.patch.result import ResultCheckpoint, digests_of, find_differences
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits
from graft.tensors.hashing import digest_of
from tests.checkpoints import (
    cut,
    equal_tensors,
    make_patch,
    nudged,
    sample_tensors,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
    write_sharded,
    write_single,
)

TASK = {"name": "toy", "labels": ["no", "yes", "maybe"], "head": {"architecture": "BertForSequenceClassification"}}
PLACES = [(name, i) for name, tensor in sample_tensors().items() for i in range(tensor.numel())]


def check_result(base: Path, patches: list[Patch], out: Path, rule: OverlapRule = "error") -> Path:
    """The merged folder, after the comparison of all that a result says of it."""
    checkpoint = Checkpoint.open(base)
    result = ResultCheckpoint(checkpoint, patches, rule)
    before, digest = digests_of(result)
    merge_patches(Checkpoint.open(base), patches, out, on_overlap=rule)
    written = Checkpoint.open(out)
    assert before == digest_of(checkpoint) != digest
    assert digest == digest_of(written) == digest_of(result)
    assert result.names == written.names
    for name in written.names:
        assert result.spec(name) == written.spec(name)
        assert same_bits(result.read(name), written.read(name))
    assert find_differences(result, written) == {}
    return out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [{}, {"max_shard_size": "2KB"}])
def test_a_language_model(tied: bool, dtype: torch.dtype, sizes: dict[str, Any], tmp_path: Path) -> None:
    model = small_llama(tied=tied, dtype=dtype)
    base = save_model(model, tmp_path / "base", **sizes)
    patch = cut(base, save_model(nudged(model), tmp_path / "tuned"))
    merged = check_result(base, [patch], tmp_path / "out")
    other = save_model(nudged(model, seed=5), tmp_path / "other")
    result = ResultCheckpoint(Checkpoint.open(base), [patch])
    assert find_differences(result, Checkpoint.open(tmp_path / "tuned")) == {}  # every changed entry is in the patch
    assert len(find_differences(result, Checkpoint.open(other))) > 5
    assert len(find_differences(result, Checkpoint.open(base))) > 5
    assert find_differences(Checkpoint.open(merged), Checkpoint.open(merged)) == {}


def test_both_listed_names_of_a_tied_tensor_are_patched(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    base = save_model(model, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    merged = load_file(
        check_result(base, [cut(base, save_model(nudged(model), tmp_path / "tuned"))], tmp_path / "out")
        / "model.safetensors"
    )
    assert same_bits(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert not same_bits(merged["lm_head.weight"], tensors["lm_head.weight"])


@pytest.mark.parametrize("sizes", [{}, {"max_shard_size": "2KB"}])
def test_a_head_that_the_base_lacks_and_names_with_a_prefix(sizes: dict[str, Any], tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base", **sizes)
    tuned = save_model(nudged(small_classifier(encoder)), tmp_path / "tuned")
    patch = cut(base, tuned, task=TASK)
    assert patch.dense
    check_result(base, [patch], tmp_path / "out")
    result = ResultCheckpoint(Checkpoint.open(base), [patch])
    assert "bert.embeddings.word_embeddings.weight" in Checkpoint.open(tuned).names
    assert find_differences(result, Checkpoint.open(tuned)) == {}


def test_a_head_that_another_replaces(tmp_path: Path) -> None:
    base = save_model(small_classifier(n_labels=2), tmp_path / "base")
    patch = cut(base, save_model(nudged(small_classifier(n_labels=3)), tmp_path / "tuned"), task=TASK)
    check_result(base, [patch], tmp_path / "out")


def test_a_head_of_another_class_leaves_the_old_one_out(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    model = small_llama(tied=False)
    base = save_model(model, tmp_path / "base")
    torch.manual_seed(3)
    classifier = LlamaForSequenceClassification(model.config)
    classifier.model.load_state_dict(nudged(model).model.state_dict())
    task = {"name": "toy", "labels": ["a", "b"], "head": {"architecture": "LlamaForSequenceClassification"}}
    patch = cut(base, save_model(classifier, tmp_path / "tuned"), task=task)
    merged = check_result(base, [patch], tmp_path / "out")
    assert "lm_head.weight" in Checkpoint.open(base).names
    assert "lm_head.weight" not in Checkpoint.open(merged).names


def test_rows_of_a_grown_vocabulary(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    base = save_model(model, tmp_path / "base")
    grown = nudged(model)
    grown.resize_token_embeddings(19)
    patch = cut(base, save_model(grown, tmp_path / "tuned"))
    assert patch.provenance.grown
    check_result(base, [patch], tmp_path / "out")
    result = ResultCheckpoint(Checkpoint.open(base), [patch])
    assert find_differences(result, Checkpoint.open(tmp_path / "tuned")) == {}
    facts = find_differences(result, Checkpoint.open(base))
    assert facts["model.embed_tokens.weight"] == "F32[19, 8] in the result, of another shape or kind there"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.dictionaries(st.sampled_from(PLACES), st.floats(-3, 3, width=16), min_size=1), min_size=1, max_size=3),
    st.sampled_from(list(OVERLAP_RULES)),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_any_patches_by_any_rule(
    tmp_path_factory: pytest.TempPathFactory, changes: Any, rule: OverlapRule, dtype: torch.dtype, sharded: bool
) -> None:
    folder, tensors = tmp_path_factory.mktemp("result"), sample_tensors(dtype=dtype)
    base = (write_sharded if sharded else write_single)(folder / "base", tensors)
    patches = []
    for entries in changes:
        by_name: dict[str, dict[int, float]] = {}
        for (name, i), value in entries.items():
            by_name.setdefault(name, {})[i] = value
        patches.append(make_patch(tensors, by_name, dense={"classifier.w": torch.ones(2, 3)}))
    try:
        result = ResultCheckpoint(Checkpoint.open(base), patches, rule)
    except OverlapError:
        with pytest.raises(OverlapError):
            merge_patches(Checkpoint.open(base), patches, folder / "out", on_overlap=rule)
        return
    merge_patches(Checkpoint.open(base), patches, folder / "out", on_overlap=rule)
    written = Checkpoint.open(folder / "out")
    assert digests_of(result) == (digest_of(Checkpoint.open(base)), digest_of(written))
    assert equal_tensors(
        {name: result.read(name) for name in result.names}, {name: written.read(name) for name in written.names}
    )


def test_each_kind_of_difference_is_named(tmp_path: Path) -> None:
    tensors = sample_tensors()
    base = write_single(tmp_path / "base", tensors)
    patch = make_patch(tensors, {"layers.0.w": {3: 9.0}})
    result = ResultCheckpoint(Checkpoint.open(base), [patch])
    assert find_differences(result, Checkpoint.open(base)) == {"layers.0.w": "1 of 30 values"}
    other = {**tensors, "layers.1.b": tensors["layers.1.b"].bfloat16(), "more.w": torch.ones(2)}
    del other["head.w"]
    assert find_differences(result, Checkpoint.open(write_single(tmp_path / "other", other))) == {
        "head.w": "the checkpoint lacks it",
        "layers.0.w": "1 of 30 values",
        "layers.1.b": "F32[5] in the result, BF16[5] in the checkpoint",
        "more.w": "the result lacks it",
    }
    elsewhere = write_single(tmp_path / "elsewhere", {"else.w": torch.ones(3)})
    assert list(find_differences(result, Checkpoint.open(elsewhere))) == [""]


def test_a_patch_of_another_base_is_refused(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", sample_tensors(1))
    with pytest.raises(PatchMismatchError, match=r"does not fit base: tensor 'layers\.0\.w'"):
        ResultCheckpoint(Checkpoint.open(base), [make_patch(sample_tensors(), {"layers.0.w": {3: 9.0}})])


def test_a_stated_result_is_kept_in_the_file_and_absent_otherwise(tmp_path: Path) -> None:
    patch = make_patch(sample_tensors(), {"layers.0.w": {3: 9.0}})
    assert b'"result"' not in patch_bytes(patch).split(b"layers")[0]
    assert "result" not in patch.provenance.to_json()
    stated = replace(patch, provenance=replace(patch.provenance, result="ab" * 32))
    save_patch(stated, tmp_path / "p.safetensors")
    loaded = load_patch(tmp_path / "p.safetensors")
    assert loaded.provenance.result == "ab" * 32
    assert patch_bytes(loaded) == (tmp_path / "p.safetensors").read_bytes()
    with pytest.raises(ValueError, match="'result' is not str"):
        Provenance.from_json({"result": 3})
