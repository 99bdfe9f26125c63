"""State dicts, task vectors and dense imports: the same weights on either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from graft.errors import BudgetError, CheckpointError, ConfigError, MismatchError, PatchError, PatchMismatchError
from graft.interop.exporting import export_patch
from graft.interop.importing import Imported, import_patch
from graft.localize.diff import diff_checkpoints
from graft.localize.pair_notes import describe_differences
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import (
    bits_of,
    cut,
    equal_patches,
    equal_tensors,
    make_patch,
    sample_tensors,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
    write_sharded,
    write_single,
)
from tests.interop.bases import DTYPES, bert_pair, llama_pair, stored_patch


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(path, dtype="auto").named_parameters())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_dict_loads_into_the_base(dtype: torch.dtype, tied: bool, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype, tied=tied)
    done = export_patch(stored_patch(base, tuned), "state-dict", tmp_path / "state", base=str(base))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    unexpected = model.load_state_dict(load_file(tmp_path / "state"), strict=False).unexpected_keys
    assert unexpected == []
    assert equal_tensors(dict(model.named_parameters()), weights(tuned))
    assert done.k == len(stored_patch(base, tuned))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_dict_comes_back_as_the_same_patch(dtype: torch.dtype, tied: bool, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype, tied=tied)
    patch = diff_checkpoints(base, tuned, with_base_values=True)
    export_patch(patch, "state-dict", tmp_path / "state", base=str(base))
    for source in (tmp_path / "state", tuned):
        back = import_patch(source, "dense", str(base), with_base_values=True)
        assert back.mask == patch.mask
        assert equal_tensors(back.values, patch.values)
        assert back.base_values is not None
        assert equal_tensors(back.base_values, patch.base_values or {})
        assert back.provenance.base == patch.provenance.base
        assert back.provenance.tied == patch.provenance.tied


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_base_plus_task_vector_is_the_tuned_model(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype)
    patch = stored_patch(base, tuned, with_base_values=True)
    done = export_patch(patch, "task-vector", tmp_path / "vector")
    vector = load_file(tmp_path / "vector")
    before, after = weights(base), weights(tuned)
    off = 0
    for name, step in vector.items():
        landed = (before[name].float() + step).to(dtype)
        off += int((landed != after[name]).sum())
        assert torch.allclose(landed, after[name], rtol=0, atol=done.largest_miss)
    assert off == done.n_missed
    assert (off == 0) == (dtype == torch.bfloat16)
    assert set(vector) == set(patch.mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_beside_the_entries_keep_their_sign_under_a_task_vector(dtype: torch.dtype, tmp_path: Path) -> None:
    base = {"layers.0.w": torch.tensor([[1.0, -0.0, 2.0], [0.0, -0.0, 5.0]], dtype=dtype)}
    patch = make_patch(base, {"layers.0.w": {0: 1.5, 4: 0.5}}, with_base_values=True)
    export_patch(patch, "task-vector", tmp_path / "vector", strict=True)
    step = load_file(tmp_path / "vector")["layers.0.w"]
    expected = torch.tensor([[1.5, -0.0, 2.0], [0.0, 0.5, 5.0]], dtype=dtype)
    assert equal_tensors({"w": (base["layers.0.w"].to(step.dtype) + step).to(dtype)}, {"w": expected})


def test_dense_import_finds_prefixed_names_and_heads(tmp_path: Path) -> None:
    base, tuned = bert_pair(tmp_path)
    encoder = small_bert()
    encoder.load_state_dict(load_file(tuned / "model.safetensors"))
    classifier = save_model(small_classifier(encoder), tmp_path / "classifier")
    patch = import_patch(classifier, "dense", str(base))
    assert set(patch.dense) == {"classifier.weight", "classifier.bias"}
    assert patch.mask == cut(base, tuned).mask
    assert equal_tensors(patch.values, cut(base, tuned).values)


def test_dense_import_reads_shards_and_budgets(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", sample_tensors(0))
    tuned = write_sharded(tmp_path / "tuned", sample_tensors(1))
    whole = import_patch(tuned, "dense", str(base))
    some = import_patch(tuned, "dense", str(base), budget=11)
    assert len(whole) == sum(tensor.numel() for tensor in sample_tensors().values())
    assert equal_tensors(some.values, diff_checkpoints(base, tuned, budget=11).values)
    assert some.mask == diff_checkpoints(base, tuned, budget=11).mask


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, "bf16 in fp32"], ids=str)
def test_a_budget_never_buys_what_only_the_rounding_of_a_dense_file_changed(stored: Any, tmp_path: Path) -> None:
    before = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    moved = (before.flatten().abs() < 0.3).nonzero().flatten()[:20]
    after = before.clone()
    after.view(-1)[moved] += 0.004  # less than what rounding to bf16 moves the largest weights by
    after = after.to(stored) if isinstance(stored, torch.dtype) else after.bfloat16().float()
    base, tuned = (write_single(tmp_path / x, {"layers.0.w": w}) for x, w in (("base", before), ("tuned", after)))
    patch = import_patch(tuned, "dense", str(base), budget=20)
    assert patch.mask["layers.0.w"].tolist() == moved.tolist()
    assert equal_tensors(patch.values, diff_checkpoints(base, tuned, budget=20).values)
    if stored != torch.float32:
        with pytest.raises(BudgetError, match="changes only 20 of the base's own"):
            import_patch(tuned, "dense", str(base), budget=21)
    assert import_patch(tuned, "dense", str(base)).mask == diff_checkpoints(base, tuned).mask  # all bits, as before
    for whole in (True, False):
        found = Imported.open(tuned, "dense", str(base)).describe(whole=whole)
        expected = describe_differences(base, tuned, "all", whole=whole)
        assert found.to_json() == expected.to_json()
        assert bool(found.notes) == (stored != torch.float32)


def test_a_scalar_is_imported_as_any_tensor(tmp_path: Path) -> None:
    tensors = {"layers.0.w": torch.ones(3), "layers.0.scale": torch.tensor(1.0)}
    base = write_single(tmp_path / "base", tensors)
    tuned = write_single(tmp_path / "tuned", tensors | {"layers.0.scale": torch.tensor(2.0)})
    for budget in (None, 1):
        patch = import_patch(tuned, "dense", str(base), budget=budget)
        assert {name: patch.values[name].tolist() for name in patch.mask} == {"layers.0.scale": [2.0]}


def plain_patch(folder: Path, **how: Any) -> tuple[Path, Patch]:
    tensors = {**sample_tensors(), "steps": torch.tensor([1, 2])}
    base = write_single(folder / "base", tensors)
    return base, make_patch(tensors, {"layers.0.w": {3: 0.5}, "steps": {1: 7}}, **how)


def test_what_a_format_cannot_hold_is_refused_by_name_or_skipped(tmp_path: Path) -> None:
    base, patch = plain_patch(tmp_path, with_base_values=True, dense={"classifier.bias": torch.ones(3)})
    for to, name in (("task-vector", "classifier.bias"), ("vllm", "steps"), ("shira", "classifier.bias")):
        with pytest.raises(PatchError, match=f"^{to} cannot hold tensor '{name}': "):
            export_patch(patch, to, tmp_path / to, base=str(base))
        assert not (tmp_path / to).exists()
    done = export_patch(patch, "task-vector", tmp_path / "out", skip_unsupported=True)
    assert set(done.skipped) == {"classifier.bias", "steps"}
    assert (done.k, done.dense, set(load_file(tmp_path / "out"))) == (1, 0, {"layers.0.w"})
    with pytest.raises(BudgetError, match="at least one entry"):  # a matrix not named .weight is no linear layer
        export_patch(patch, "shira", tmp_path / "shira", skip_unsupported=True)
    done = export_patch(patch, "state-dict", tmp_path / "state", base=str(base))
    assert (done.k, done.dense, dict(done.skipped)) == (2, 1, {})
    assert load_file(tmp_path / "state")["steps"].tolist() == [1, 7]


def test_a_base_is_asked_for_and_checked(tmp_path: Path) -> None:
    base, patch = plain_patch(tmp_path)
    for to in ("shira", "task-vector", "state-dict"):
        with pytest.raises(ConfigError, match=f"{to} needs the base's values.*--base"):
            export_patch(patch, to, tmp_path / "out")
    other = write_single(tmp_path / "other", {**sample_tensors(3), "steps": torch.tensor([1, 2])})
    with pytest.raises(PatchMismatchError, match="values at its 1 entries are not the base's"):
        export_patch(patch, "state-dict", tmp_path / "out", base=str(other))
    with pytest.raises(ConfigError, match="'zebra' is not a format to export to; choose from lora"):
        export_patch(patch, "zebra", tmp_path / "out")
    with pytest.raises(ConfigError, match="'zebra' is not a format to import from; choose from shira"):
        import_patch(tmp_path, "zebra", str(base))
    assert not (tmp_path / "out").exists()


def test_imports_that_cannot_be_are_refused(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", sample_tensors())
    changed = sample_tensors(1)
    for tensors, kind, fact in (
        (sample_tensors(), BudgetError, "changes nothing"),
        ({"head.w": torch.full((2, 5), torch.nan)}, CheckpointError, "NaN"),
        ({"head.w": torch.ones(5, 2)}, MismatchError, r"'head\.w' has shape \[2, 5\] in the base, \[5, 2\]"),
        ({"zebra": torch.ones(2)}, MismatchError, "lacks any of the tensors"),
        ({**changed, "zebra": torch.full((2,), torch.inf)}, CheckpointError, "'zebra' holds NaN or inf"),
    ):
        save_file(tensors, tmp_path / "file")
        with pytest.raises(kind, match=fact):
            import_patch(tmp_path / "file", "dense", str(base))
    torch.save(changed, tmp_path / "file")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        import_patch(tmp_path / "file", "dense", str(base))


def test_tied_names_that_differ_are_refused(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    base = save_model(model, tmp_path / "base")
    table = model.lm_head.weight.detach().clone() + 1
    save_file({"lm_head.weight": table, "model.embed_tokens.weight": table.clone()}, tmp_path / "file")
    patch = import_patch(tmp_path / "file", "dense", str(base))
    assert list(patch.mask) == ["model.embed_tokens.weight"]
    with apply_patch(model, patch):
        assert torch.equal(model.lm_head.weight, table)
    save_file({"lm_head.weight": table, "model.embed_tokens.weight": table + 1}, tmp_path / "file")
    with pytest.raises(MismatchError, match="the imported file unties them"):
        import_patch(tmp_path / "file", "dense", str(base))
    save_file({"lm_head.weight": table}, tmp_path / "file")
    assert equal_patches(import_patch(tmp_path / "file", "dense", str(base)), patch)


def test_the_same_export_gives_the_same_bytes(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32)
    patch = stored_patch(base, tuned)
    for to in ("vllm", "task-vector", "state-dict"):
        for name in ("one", "two"):
            export_patch(patch, to, tmp_path / name, base=str(base), force=True)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        assert Checkpoint.open(tmp_path / "one").names
    assert bits_of(weights(base)) != bits_of(weights(tuned))
