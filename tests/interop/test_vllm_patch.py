"""vLLM's checkpoint weight patches: what its loader does with them, done here as its source describes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from graft.errors import CheckpointError
from graft.interop.export_source import ExportSource
from graft.interop.exporting import export_patch
from graft.interop.vllm_patch import WeightPatch, find_unsupported, read_weight_patches, write_weight_patches
from tests.checkpoints import equal_tensors, make_patch, sample_tensors
from tests.interop.bases import DTYPES, llama_pair, stored_patch


def load_as_vllm(weights: dict[str, torch.Tensor], patches: Iterable[WeightPatch]) -> None:
    """Its contract: a checkpoint-shaped tensor of NaN, values put in by flat index, NaN keeps what is there."""
    for patch in patches:
        assert patch.values.ndim == 1
        if patch.indices is None:
            weights[patch.name].copy_(patch.values.to(patch.dtype).view(patch.shape))
            continue
        assert patch.dtype.is_floating_point
        assert patch.indices.dtype in (torch.int32, torch.int64)
        assert len(patch.indices.unique()) == len(patch.indices) == len(patch.values)
        flat = torch.full((torch.Size(patch.shape).numel(),), torch.nan, dtype=patch.dtype)
        flat.index_copy_(0, patch.indices.long(), patch.values)
        source = flat.view(patch.shape)
        torch.where(source.isnan(), weights[patch.name], source, out=weights[patch.name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_loader_arrives_at_the_tuned_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, dtype)
    done = export_patch(stored_patch(base, tuned), "vllm", tmp_path / "patch")  # absolute: no base is needed
    model, wanted = (
        dict(AutoModelForCausalLM.from_pretrained(x, dtype=dtype).named_parameters()) for x in (base, tuned)
    )
    assert not equal_tensors(model, wanted)
    with torch.no_grad():
        load_as_vllm(model, read_weight_patches(tmp_path / "patch"))
    assert equal_tensors(model, wanted)
    assert done.n_missed == 0


def test_whole_tensors_have_no_indices(tmp_path: Path) -> None:
    head = torch.arange(6.0).reshape(2, 3)
    patch = make_patch(sample_tensors(), {"head.w": {3: 1.0}}, dense={"score.weight": head})
    write_weight_patches(ExportSource(patch), tmp_path / "patch")
    first, second = read_weight_patches(tmp_path / "patch")
    assert first[:3] == ("head.w", (2, 5), torch.float32)
    assert first.indices is not None
    assert (first.indices.tolist(), first.indices.dtype) == ([3], torch.int32)
    assert second[:3] == ("score.weight", (2, 3), torch.float32)
    assert second.indices is None
    assert torch.equal(second.values, head.flatten())


def test_integers_are_named(tmp_path: Path) -> None:
    patch = make_patch({"steps": torch.tensor([1, 2])}, {"steps": {0: 3}})
    assert "I64" in find_unsupported(ExportSource(patch))["steps"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file(sample_tensors(), tmp_path / "file")
    with pytest.raises(CheckpointError, match="not a file of checkpoint weight patches"):
        list(read_weight_patches(tmp_path / "file"))
    for rows in ("[[1,2]]", '[["x",[2],"F32"]]', '[["head.w",[2,5],"F31"]]', "{}", "[3]"):
        save_file({"values/head.w": torch.ones(1)}, tmp_path / "file", {"checkpoint_weight_patch": rows})
        with pytest.raises(CheckpointError, match=r"its list of tensors|not valid JSON"):
            assert list(read_weight_patches(tmp_path / "file"))
