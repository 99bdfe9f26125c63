"""Quantized checkpoints are refused by name; bare fp8 tensors are weights like any others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.errors import CheckpointError
from graft.localize.diff import diff_checkpoints
from graft.patch.merge import merge_patches
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import equal_tensors, sample_tensors, write_single


@pytest.mark.parametrize("method", ["fp8", "gptq", "bitsandbytes"])
def test_a_declared_quantization_is_refused_by_name(method: str, tmp_path: Path) -> None:
    plain = write_single(tmp_path / "plain", sample_tensors(), {})
    folder = write_single(tmp_path / "q", sample_tensors(1), {"quantization_config": {"quant_method": method}})
    assert len(diff_checkpoints(plain, write_single(tmp_path / "tuned", sample_tensors(2)), budget=5)) == 5
    for pair in ((folder, plain), (plain, folder)):
        with pytest.raises(CheckpointError, match=rf"q: quantized \({method}\); use the unquantized checkpoint"):
            diff_checkpoints(*pair, budget=5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_tensors_without_scales_are_diffed_and_merged_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    before, after = (sample_tensors(seed, torch.float32) for seed in (0, 1))
    before, after = ({name: tensor.to(dtype) for name, tensor in item.items()} for item in (before, after))
    base, tuned = write_single(tmp_path / "base", before), write_single(tmp_path / "tuned", after)
    merge_patches(Checkpoint.open(base), [diff_checkpoints(base, tuned)], tmp_path / "merged")
    merged = Checkpoint.open(tmp_path / "merged")
    assert equal_tensors({name: merged.read(name) for name in merged.names}, after)
    assert len(diff_checkpoints(base, tuned, budget=1)) == 1
