from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.files.tensor_spec import TensorSpec
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.patch.summary import describe_patch, entries_by_layer, log2_choose, measure_sizes, natural_key
from graft.tensors.hashing import hash_values
from tests.checkpoints import sample_patch


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 2000), st.data())
def test_the_bound_is_the_logarithm_of_the_number_of_masks(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    assert log2_choose(n, k) == pytest.approx(math.log2(math.comb(n, k)), abs=1e-8)


def matrices(n_layers: int, vocabulary: int, width: int, inner: int, kv: int, gated: bool) -> dict[str, TensorSpec]:
    """Return the matrices of a transformer, where nearly all of its weights are."""
    layer = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width)}
    layer |= {"self_attn.o_proj": (width, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    layer |= {"mlp.gate_proj": (inner, width)} if gated else {}
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(n_layers) for name, shape in layer.items()}
    shapes["model.embed_tokens.weight"] = (vocabulary, width)
    return {name: TensorSpec("BF16", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("specs", "limit"),
    [(matrices(12, 64_000, 768, 3072, 768, False), 1.35), (matrices(16, 128_256, 2048, 8192, 512, True), 1.10)],
    ids=["134M", "1B"],
)
def test_a_patch_of_one_in_ten_thousand_is_near_its_bound(specs: dict[str, TensorSpec], limit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = Mask.of(
        specs, {n: torch.randint(s.numel, (s.numel // 10**4,), generator=generator) for n, s in specs.items()}
    )
    values = {name: torch.ones(len(mask[name]), dtype=torch.bfloat16) for name in mask}
    prints = {name: hash_values(values[name]) for name in mask}
    n = sum(spec.numel for spec in specs.values())
    origin = Provenance(base=BaseIdentity(name="base", digest="0" * 64, n_parameters=n), method={"name": "magnitude"})
    patch = Patch(mask, values, prints, origin)
    assert 1 < measure_sizes(patch, len(patch_bytes(patch))).bound_ratio <= limit


def test_whole_tensors_and_base_values_are_counted_apart() -> None:
    patch = sample_patch()
    sizes = measure_sizes(patch, 10_000)
    value_bytes = 6 * 2 + 20 * 2 + 4 * 4 + 4 + 8 + 2 * 8
    assert (sizes.dense_bytes, sizes.base_bytes) == (2 * 4 + 4, value_bytes)
    assert sizes.bound_bytes == pytest.approx(value_bytes + log2_choose(70_078, 34) / 8)
    assert sizes.bound_ratio == pytest.approx((10_000 - 12 - value_bytes) / sizes.bound_bytes)


def test_entries_are_counted_by_layer_in_natural_order() -> None:
    names = ["0.layers.10.b", "0.layers.9.w", "0.layers.10.w", "embed.weight", "head.w", "enc.layers.2.w"]
    mask = Mask.full({name: TensorSpec("F32", (i + 1,)) for i, name in enumerate(names)})
    table = entries_by_layer(mask)
    assert list(table) == ["0.layers.9", "0.layers.10", "embeddings", "enc.layers.2", "heads"]
    assert table["0.layers.10"] == {"b": 1, "w": 3}
    assert sum(sum(row.values()) for row in table.values()) == len(mask)
    assert sorted(["b.²", "b.10", "b.9", "9"], key=natural_key) == ["9", "b.9", "b.10", "b.²"]


def test_the_description_is_plain_json_of_patch_and_mask() -> None:
    patch = sample_patch()
    text = describe_patch(patch, 5_000, patch.provenance)
    assert json.loads(json.dumps(text, allow_nan=False)) == text
    assert (text["kind"], text["k"], text["n_parameters"], text["n_maskable"]) == ("patch", 34, 70_078, 70_078)
    assert text["density"] == text["density_maskable"] == 34 / 70_078
    assert text["dense"] == {"classifier.bias": [2], "temperature": []}
    assert text["has_base_values"]
    assert text["task"]["labels"] == ["a", "ß"]
    bare = describe_patch(patch.mask, 5_000, Provenance())
    assert (bare["kind"], bare["k"], bare["density"]) == ("mask", 34, None)
    assert "bound_ratio" not in bare
