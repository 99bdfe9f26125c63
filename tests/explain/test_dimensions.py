"""Entries by dimension: planted ones are found, random ones are chance, whatever way a matrix is stored."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from graft.explain.dimensions import count_entries_of, find_commonest
from graft.explain.explanation import explain_mask
from graft.explain.residual import Place
from graft.explain.sentences import describe_explanation
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask

QUERY = "encoder.layer.{}.attention.self.query.weight"
UP = "encoder.layer.{}.intermediate.dense.weight"
DOWN = "encoder.layer.{}.output.dense.weight"
NORM = "encoder.layer.{}.output.LayerNorm.weight"


def spec(*shape: int) -> TensorSpec:
    return TensorSpec("F32", shape)


def planted() -> Mask:
    """Two layers whose readers have 30 entries in columns 3 and 5, of 16, and one elsewhere; a writer and a norm."""
    draw = np.random.default_rng(0)
    specs, indices = {}, {}
    for layer in range(2):
        rows = np.concatenate([draw.choice(64, 20, replace=False), draw.choice(64, 10, replace=False), [0]])
        columns = np.repeat([3, 5, 9], [20, 10, 1])
        specs |= {UP.format(layer): spec(64, 16), DOWN.format(layer): spec(16, 64), NORM.format(layer): spec(16)}
        indices[UP.format(layer)] = rows * 16 + columns
        indices[DOWN.format(layer)] = np.arange(5) * 64  # outputs 0 to 4
        indices[NORM.format(layer)] = np.array([7])
    return Mask.of(specs, indices)


def test_planted_dimensions_are_found_in_every_layer() -> None:
    explanation = explain_mask(planted())
    assert explanation.width == 16
    assert explanation.stream[:3] == [3, 5, 9]
    common = explanation.commonest
    assert common is not None
    assert (common.counts, common.tensors) == ({3: 40, 5: 20}, {3: 2, 5: 2})
    assert common.share == pytest.approx(60 / 62)
    assert common.by_chance < 0.3
    assert {layer: int(counts[3]) for layer, counts in explanation.layers_of("reads").items()} == {
        "encoder.layer.0": 20,
        "encoder.layer.1": 20,
    }
    assert explanation.layers_of("scales")["encoder.layer.0"].nonzero()[0].tolist() == [7]
    assert explanation.sharing("inputs", "reads").ratio == pytest.approx(8.3, rel=0.2)
    assert explanation.largest_rank == 3
    assert explanation.factor_bytes == 2 * 4 * (3 * 80 + 1 * 80)  # of the writers' entries all lie in one column
    text = "\n".join(describe_explanation(explanation))
    assert "60 (97 %) lie in 2 of 16 input dimensions: 3 (40), 5 (20)" in text
    assert "3 in 2, 5 in 2 of 2" in text
    assert "norms 2 (2.7 %)" in text
    assert json.loads(json.dumps(explanation.to_json(), allow_nan=False))["kinds"] == {"matrix": 72, "norm": 2}


def test_random_entries_are_chance() -> None:
    draw = np.random.default_rng(1)
    name = UP.format(0)
    explanation = explain_mask(Mask.of({name: spec(64, 16)}, {name: draw.choice(1024, 300, replace=False)}))
    for side in ("inputs", "outputs"):
        sharing = explanation.sharing(side)
        assert sharing.ratio == pytest.approx(1, abs=0.15)
        assert abs(sharing.to_json()["z"]) < 3
    common = explanation.commonest
    assert common is not None
    assert common.share == pytest.approx(common.by_chance, abs=0.05)


def test_a_matrix_stored_the_other_way_round_has_the_same_sides() -> None:
    name, place = UP.format(0), Place("matrix", "reads")
    mask = planted()
    rows, columns = np.divmod(mask[name], 16)
    straight = count_entries_of(name, mask[name], spec(64, 16), place)
    other = count_entries_of(
        name, np.sort(columns * 64 + rows), spec(16, 64), Place("matrix", "reads", transposed=True)
    )
    assert straight.to_json() | {"shape": 0} == other.to_json() | {"shape": 0}
    assert straight.to_json()["inputs"]["commonest"][0] == {"dimension": 3, "k": 20, "share": 20 / 31}


def test_packed_experts_count_each_as_a_matrix_of_its_own() -> None:
    name = "layers.0.mlp.experts.gate_up_proj"
    indices = np.array([0 * 32 + 3, 5 * 32 + 3, 2048 + 7 * 32 + 3])  # two of expert 0, one of expert 1, all input 3
    explanation = explain_mask(Mask.of({name: spec(2, 64, 32)}, {name: indices}))
    tensor = explanation.tensors[0]
    assert tensor.inputs is not None
    assert tensor.inputs.commonest() == [(3, 3)]
    assert tensor.inputs.sharing is not None
    assert (tensor.inputs.sharing.pairs, tensor.inputs.sharing.shared) == (1, 1)  # none across experts
    assert tensor.rank == 1


def test_edges_one_entry_a_scalar_and_a_convolution() -> None:
    specs = {"scale": spec(), "patch.projection.weight": spec(4, 3, 2, 2), QUERY.format(0): spec(8, 8)}
    explanation = explain_mask(Mask.of(specs, {name: [0] for name in specs}))
    text = "\n".join(describe_explanation(explanation))
    assert "Not placed at the residual stream: patch.projection.weight (1 entry; 4 axes, so no matrix), scale" in text
    assert "share their input" not in text  # no pair of entries
    json.dumps(explanation.to_json(), allow_nan=False)
    assert find_commonest([]) is None


def test_every_entry_is_told_of_once() -> None:
    layer = "model.layers.0"
    specs = {
        f"{layer}.self_attn.q_proj.weight": spec(64, 64),
        f"{layer}.self_attn.kv_b_proj.weight": spec(96, 24),  # meets the stream on no side
        f"{layer}.self_attn.o_proj.weight": spec(64, 48),
        f"{layer}.mixer.D": spec(64),
        f"{layer}.conv.weight": spec(64, 1, 4),
        f"{layer}.input_layernorm.weight": spec(64),
        "model.embed_tokens.weight": spec(90, 48),  # of another width than the stream
    }
    mask = Mask.of(specs, {name: range(2 + i) for i, name in enumerate(specs)})
    text = "\n".join(describe_explanation(explain_mask(mask, width=64)))
    assert "Of 35 entries 2 (5.7 %) lie in the one touched matrix that reads the residual stream." in text
    elsewhere = re.search("Entries elsewhere: (.*)[.]\n", text)
    assert elsewhere is not None
    parts = dict(re.findall(r"([a-z ]+) (\d+) [(]", elsewhere[1]))
    assert parts == {
        "matrices that write to it": "4", " matrices that do neither": "3", " norms": "7", " not placed": str(5 + 6 + 8)
    }  # fmt: skip
    assert f"{layer}.mixer.D (5 entries; " in text
    assert f"{layer}.conv.weight (6 entries; " in text
    assert "model.embed_tokens.weight (8 entries; an embedding 48 wide" in text


def test_one_of_a_thing_is_told_of_in_the_singular() -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    text = "\n".join(describe_explanation(explain_mask(Mask.of({name: spec(64, 64)}, {name: [5]}), width=64)))
    assert text.startswith("Of 1 entry 1 (100 %) lies in the one touched matrix that reads the residual stream.")
    assert "as concentrated as an even spread over 1 dimension." in text
    assert "The one matrix has exact rank 1; as a LoRA of that rank its factors take 512 bytes" in text
    text = "\n".join(describe_explanation(explain_mask(Mask.of({"x": spec(1)}, {"x": [0]}), width=1)))
    assert text.startswith("Of 1 entry none lies in a matrix")


def test_nothing_reads() -> None:
    explanation = explain_mask(Mask.of({NORM.format(0): spec(16)}, {NORM.format(0): [3, 7]}))
    assert describe_explanation(explanation)[0].endswith("none lies in a matrix that reads the residual stream.")
    assert explanation.stream == [3, 7]
