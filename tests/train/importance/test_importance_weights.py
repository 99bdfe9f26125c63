from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from graft.errors import BudgetError, CheckpointError, OutputError
from graft.patch.format.integrity import make_seal
from graft.train.importance.importance_file import KEY, load_importance, save_importance
from graft.train.importance.importance_weights import ImportanceWeights, keep_importance, select_core
from tests.checkpoints import sample_tensors

Tensors = dict[str, torch.Tensor]


def scored(tensors: Tensors, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(tensor.numel(), generator=generator).clone for name, tensor in tensors.items()}


def sample(share: float = 0.3, dtype: torch.dtype = torch.float32) -> ImportanceWeights:
    tensors = sample_tensors(dtype=dtype) | {"long.w": torch.zeros(40_000, dtype=dtype)}
    scores = scored(tensors) | {"long.w": (torch.arange(40_000.0) - 39_990).clone}  # few of many: coded by gaps
    return keep_importance(scores, tensors, share, "made up")


@settings(derandomize=True, deadline=None, max_examples=40)
@given(share=st.floats(0.01, 1), seed=st.integers(0, 99), levels=st.integers(1, 8))
def test_a_core_region_is_exact_whatever_the_ties(share: float, seed: int, levels: int) -> None:
    tensors = sample_tensors()
    scores = {name: (values() * levels).floor().clone for name, values in scored(tensors, seed).items()}
    mask = select_core(scores, tensors, share)
    n = sum(tensor.numel() for tensor in tensors.values())
    assert len(mask) == int(share * n + 0.5)
    kept = torch.cat([scores[name]()[torch.tensor(mask[name])] for name in mask])
    left = [np.setdiff1d(np.arange(tensors[name].numel()), mask[name]) for name in tensors]
    others = torch.cat([scores[name]()[torch.tensor(rest)] for name, rest in zip(tensors, left, strict=True)])
    assert not len(others) or kept.min() >= others.max()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan"), 1e-9])
def test_a_share_of_nothing_or_more_than_all_is_refused(share: float) -> None:
    with pytest.raises(BudgetError, match="keeps none, or more than all"):
        select_core(scored(sample_tensors()), sample_tensors(), share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, share: float, dtype: torch.dtype) -> None:
    held = sample(share, dtype)
    save_importance(held, tmp_path / "a.safetensors")
    again = load_importance(tmp_path / "a.safetensors")
    assert again.mask == held.mask
    assert again.method == held.method
    for name in held.mask:
        assert torch.equal(again.omega_of(name), held.omega_of(name))
    assert again.hashes == held.hashes
    save_importance(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_importance(held, tmp_path / "a.safetensors")


@pytest.mark.parametrize(("dtype", "error"), [(torch.float8_e5m2, 2**-3), (torch.bfloat16, 2**-8), (torch.float32, 0)])
def test_a_byte_keeps_a_strength_to_an_eighth_over_nine_decades(dtype: torch.dtype, error: float) -> None:
    tensors = sample_tensors()
    scores = {name: (1e-9 * 10 ** (-8 * values())).clone for name, values in scored(tensors).items()}
    held = keep_importance(scores, tensors, 1.0, "made up", dtype)
    for name in held.mask:
        exact = scores[name]()
        torch.testing.assert_close(held.omega_of(name), exact, rtol=error, atol=float(exact.max()) * error * 2**-28)


def test_what_is_too_small_for_a_byte_is_kept_above_0() -> None:
    tensors = {"w": torch.zeros(3)}
    held = keep_importance({"w": torch.tensor([1.0, 1e-20, 0.0]).clone}, tensors, 1.0, "made up")
    assert held.mask["w"].tolist() == [0, 1]
    assert (held.omega_of("w") > 0).all()


@pytest.mark.parametrize(("share", "limit"), [(1.0, 0.13), (0.1, 0.03)])
def test_the_file_takes_an_eighth_of_the_bytes_of_dense_importance_and_anchor(
    tmp_path: Path, share: float, limit: float
) -> None:
    tensors = {"layers.0.w": torch.randn(400, 500), "layers.1.w": torch.randn(400, 500)}
    save_importance(keep_importance(scored(tensors), tensors, share, "made up"), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < limit * 8 * 400_000


def rewrite(path: Path, change: Any) -> None:
    """The file with its tensors and metadata changed, and hashes that agree with them."""
    with safe_open(path, framework="pt") as file:
        tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(file.metadata()[KEY])
    change(tensors, meta)
    meta |= make_seal(tensors, {key: meta[key] for key in ("method", "scale", "tensors")})
    save_file(tensors, path, metadata={KEY: json.dumps(meta)})


def lengthen(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["tensors"]["head.w"][2] = 9


def disagree(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors["bits/head.w"] = torch.zeros_like(tensors["bits/head.w"])


def shorten(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors["bits/head.w"] = tensors["bits/head.w"][:1].clone()


def forget(tensors: Tensors, meta: dict[str, Any]) -> None:
    del tensors["bits/head.w"]


def spoil(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors["strength/head.w"] = tensors["strength/head.w"].float() * torch.nan


def invert(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors["strength/head.w"] = -tensors["strength/head.w"].float()


def cast(tensors: Tensors, meta: dict[str, Any]) -> None:
    tensors["strength/head.w"] = tensors["strength/head.w"].half()


def shrink(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["scale"] = 0.0


def retype(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["tensors"]["head.w"][0] = "F3"


def age(tensors: Tensors, meta: dict[str, Any]) -> None:
    meta["format"] = 2


BAD = {
    lengthen: "its strength is not 9 values",
    disagree: "hold 0 indices, not",
    shorten: "its bits are not those of 10 elements",
    forget: "not said which",
    spoil: "not finite",
    invert: "not above 0",
    cast: "its strength is not",
    shrink: "contradicts itself",
    retype: "contradicts itself",
    age: "not a file of importance of format 1",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "held.safetensors"
    tensors = sample_tensors()
    save_importance(keep_importance(scored(tensors), tensors, 0.6, "made up"), path)
    assert len(load_importance(path).mask["head.w"]) not in (0, 9, 10)  # the control
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=BAD[change]):
        load_importance(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "held.safetensors"
    save_importance(sample(), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="cut short"):
        load_importance(path)
