"""Fusion by streams against fusion of whole models in memory, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from graft.compose.fusion import fuser
from graft.compose.fusion.angles import angles_of, arc_coefficients, dots_of, gram_of
from graft.compose.fusion.fuser import RECORD, fuse_models
from graft.compose.registry import FUSION_METHODS
from graft.errors import CheckpointError, ConfigError, GraftError, MismatchError, OutputError
from graft.localize import top_deltas
from graft.patch.spherical import mean_on_sphere
from graft.specs.fusion import FusionSpec
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import (
    Tensors,
    equal_tensors,
    files_below,
    nudged,
    sample_tensors,
    save_model,
    small_llama,
    write_sharded,
    write_single,
)

BASE = sample_tensors()
TUNED = [{name: w + 0.3 * sample_tensors(seed)[name] for name, w in BASE.items()} for seed in (1, 2, 3)]
N = sum(tensor.numel() for tensor in BASE.values())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.tensors.pair.CHUNK", 7)  # so that every tensor takes several
    for module in (fuser, top_deltas):
        monkeypatch.setattr(module, "LONG", 14)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A base in shards, and three tuned models."""
    write_sharded(tmp_path / "base", BASE, 2)
    return [tmp_path / "base", *(write_single(tmp_path / f"t{i}", tensors) for i, tensors in enumerate(TUNED))]


def flat(tensors: Tensors) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)]).double()


def fused(models: list[Path], out: Path, spec: FusionSpec) -> Tensors:
    fuse_models(models[0], models[1:], out, spec)
    checkpoint = Checkpoint.open(out)
    return {name: checkpoint.read(name).clone() for name in checkpoint.names}


def largest(share: float) -> torch.Tensor:
    """(m, n) bool: the largest movements over the whole model, which are all different here."""
    moved = torch.stack([(flat(tensors) - flat(BASE)).float().abs() for tensors in TUNED])
    k = math.floor(share * N + 0.5)
    return moved >= moved.topk(k, dim=1).values[:, -1:]


def expected(spec: FusionSpec) -> torch.Tensor:
    base, tuned = flat(BASE), torch.stack([flat(tensors) for tensors in TUNED])
    moved = tuned - base
    if spec.method == "mean" or (spec.method == "cpi" and spec.rest == "lerp"):
        rest = tuned.mean(0)
    elif spec.arcs and spec.angle == "model":
        rest = mean_on_sphere(tuned)
    else:
        each = [mean_on_sphere(torch.stack([t[name].double().flatten() for t in TUNED])) for name in sorted(BASE)]
        rest = torch.cat(each)
    if spec.method == "task-arithmetic":
        return base + spec.factor * moved.sum(0)
    if spec.method == "ties":
        kept = torch.where(largest(spec.density), moved, 0)
        agrees = kept * kept.sum(0).sign() > 0
        return base + spec.factor * (kept * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    if spec.method == "cpi":
        core = largest(spec.core)
        return torch.where(core.any(0), (tuned * core).sum(0) / core.sum(0).clamp(min=1), rest)
    return rest


SPECS = [
    FusionSpec("mean"),
    FusionSpec("slerp"),
    FusionSpec("slerp", angle="model"),
    FusionSpec("task-arithmetic"),
    FusionSpec("task-arithmetic", scale=-1.0),
    FusionSpec("ties", density=0.3),
    FusionSpec("ties", density=1.0, scale=0.5),
    FusionSpec("cpi", core=0.1),
    FusionSpec("cpi", core=0.25, rest="lerp"),
    FusionSpec("cpi", core=0.25, angle="model"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_streams_give_what_whole_models_in_memory_give(spec: FusionSpec, models: list[Path], tmp_path: Path) -> None:
    found = fused(models, tmp_path / "out", spec)
    assert torch.allclose(flat(found), expected(spec), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(flat(found), flat(BASE), atol=1e-2)
    assert files_below(tmp_path / "out") == sorted([*files_below(models[0]), RECORD])
    again = fused(models, tmp_path / "again", spec)
    assert equal_tensors(found, again)


@pytest.mark.parametrize("method", FUSION_METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_models_equal_to_the_base_give_the_base_back(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = sample_tensors(dtype=dtype)
    models = [write_single(tmp_path / name, tensors) for name in ("base", "a", "b")]
    spec = FusionSpec(method)
    assert equal_tensors(fused(models, tmp_path / "out", spec), tensors)
    moved = write_single(tmp_path / "c", {name: tensor + 1 for name, tensor in tensors.items()})
    assert not equal_tensors(fused([*models, moved], tmp_path / "other", spec), tensors)


def test_cores_are_transplanted_bit_for_bit_counted_and_grouped(tmp_path: Path) -> None:
    base = {"layers.0.w": torch.zeros(100)}
    cores = [{0: 5.0, 1: -0.5}, {1: 6.0, 2: 7.1}, {8: 1.0, 9: 2.0}]
    paths = [write_single(tmp_path / "base", base)]
    for i, changes in enumerate(cores):
        tuned = base["layers.0.w"].clone()
        for place, value in changes.items():
            tuned[place] = value
        paths.append(write_single(tmp_path / "abc"[i], {"layers.0.w": tuned}))
    result = fuse_models(paths[0], paths[1:], tmp_path / "out", FusionSpec(core=0.02))
    found = Checkpoint.open(tmp_path / "out").read("layers.0.w")
    assert found[[0, 1, 2, 8, 9]].tolist() == torch.tensor([5.0, 2.75, 7.1, 1.0, 2.0]).tolist()
    assert result.selected == (2, 2, 2)
    assert result.jaccard[0] == pytest.approx((1, 1 / 3, 0))
    assert result.clusters == (("a", "b"), ("c",))
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == json.loads(json.dumps(result.to_json()))


def test_a_fused_language_model_loads_and_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = small_llama(tied=True, dtype=torch.bfloat16)
    base = save_model(model, tmp_path / "base", max_shard_size="2KB")
    tuned = [save_model(nudged(model, seed=i), tmp_path / f"t{i}") for i in (1, 2)]
    result = fuse_models(base, tuned, tmp_path / "out")
    loaded, report = LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert result.n_fused == Checkpoint.open(base).n_parameters
    assert loaded.dtype == torch.bfloat16


def test_buffers_stay_and_heads_of_the_tuned_are_named(tmp_path: Path) -> None:
    steps = {"steps": torch.tensor([3])}
    base = write_single(tmp_path / "base", BASE | steps)
    tuned = [write_single(tmp_path / f"t{i}", TUNED[i] | steps | {"cls.w": torch.ones(2)}) for i in range(2)]
    result = fuse_models(base, tuned, tmp_path / "out", FusionSpec("mean"))
    assert (result.kept, result.left_out) == (("steps",), ("cls.w",))
    found = Checkpoint.open(tmp_path / "out")
    assert found.read("steps").tolist() == [3]
    assert set(found.names) == {*BASE, "steps"}


def test_what_does_not_fit_is_refused_and_nothing_is_left(models: list[Path], tmp_path: Path) -> None:
    wide = write_single(tmp_path / "wide", TUNED[0] | {"embed.weight": torch.zeros(9, 4)})
    nan = write_single(tmp_path / "nan", TUNED[0] | {"layers.1.b": torch.full((5,), float("nan"))})
    before = files_below(tmp_path)
    cases: list[tuple[type[GraftError], str, list[Path]]] = [
        (MismatchError, r"'embed.weight' has shape \[7, 4\] in the base, \[9, 4\] in the tuned", [models[1], wide]),
        (CheckpointError, r"'layers.1.b' holds NaN", [models[1], nan]),
        (CheckpointError, r"gone: no such file", [models[1], tmp_path / "gone"]),
        (ConfigError, "two tuned models or more", models[1:2]),
    ]
    for method in FUSION_METHODS:
        for error, said, tuned in cases:
            with pytest.raises(error, match=said):
                fuse_models(models[0], tuned, tmp_path / "new" / "out", FusionSpec(method))
    assert files_below(tmp_path) == before
    fuse_models(models[0], models[1:], tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        fuse_models(models[0], models[1:], tmp_path / "out")
    for wrong in ({"method": "max"}, {"core": 0.0}, {"density": 2.0}, {"threshold": float("nan")}):
        with pytest.raises(ValueError, match=r"must be one of|must be above 0 and at most 1"):
            FusionSpec(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("angle", ["tensor", "model"])
def test_values_that_fit_and_a_fusion_that_does_not(angle: str, tmp_path: Path) -> None:
    tensors = [torch.tensor(values).half() for values in ([6e4, 0.0], [6e4, 6e4], [6e4, -6e4])]
    models = [write_single(tmp_path / name, {"w": w}) for name, w in zip("abc", tensors, strict=True)]
    assert fused([models[0], models[1], models[1]], tmp_path / "fits", FusionSpec("slerp"))["w"].tolist() == [6e4, 6e4]
    with pytest.raises(CheckpointError, match=r"'w' holds NaN or infinite values, or its fusion overflows"):
        fuse_models(models[0], models[1:], tmp_path / "out", FusionSpec("slerp", angle=angle))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 99), st.integers(2, 5), st.sampled_from([1e-4, 1.0]))
def test_coefficients_and_angles_come_from_dots_alone(seed: int, m: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(20, generator=generator)
    moved = size * torch.randn(m, 20, generator=generator)
    rows = base + moved
    tuned = rows.double()
    dots = dots_of(rows.clone())
    found = torch.tensor(arc_coefficients(gram_of(dots))).double() @ tuned
    assert torch.allclose(found, mean_on_sphere(tuned), rtol=1e-4, atol=1e-5)
    unit = tuned / tuned.norm(dim=1, keepdim=True)
    degrees = torch.rad2deg(2 * torch.asin((unit[0] - unit[1]).norm() / 2))
    assert float(angles_of(dots)[0, 1]) == pytest.approx(float(degrees), rel=1e-2)


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1.0, 1e-3, 1e-5, 1e-7]))
def test_a_model_of_any_length_beside_the_others_has_its_angle(seed: int, length: float) -> None:
    rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
    rows[2] *= length
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        models = rows[order].double()
        dots = dots_of(rows[order])
        found = torch.tensor(arc_coefficients(gram_of(dots))).double() @ models
        assert torch.allclose(found, mean_on_sphere(models), rtol=1e-5, atol=1e-6)
        unit = models / models.norm(dim=1, keepdim=True)
        degrees = torch.rad2deg(torch.acos(unit @ unit.T)).fill_diagonal_(0)
        assert torch.allclose(angles_of(dots), degrees, rtol=1e-5)


@pytest.mark.parametrize("slow", [0.1, 1e-6])  # as long as the other's, and five digits shorter
@pytest.mark.parametrize("angle", ["tensor", "model"])
def test_biases_from_zero_tuned_at_two_rates_fuse_alike_in_either_order(
    angle: str, slow: float, tmp_path: Path
) -> None:
    base = write_single(tmp_path / "base", {"b": torch.zeros(30)})
    rates, directions = torch.tensor([[0.1], [slow]]), torch.randn(2, 30, generator=torch.Generator().manual_seed(5))
    biases = rates * directions
    tuned = [write_single(tmp_path / f"t{i}", {"b": bias}) for i, bias in enumerate(biases)]
    spec = FusionSpec("slerp", angle=angle)  # type: ignore[arg-type]
    expected = mean_on_sphere(biases.double())
    for out, order in (("ab", tuned), ("ba", tuned[::-1])):
        found = fused([base, *order], tmp_path / out, spec)["b"].double()
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)
