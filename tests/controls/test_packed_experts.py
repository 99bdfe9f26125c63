"""Controls on packed experts: each expert is a matrix of its own, and the biases that experts pack are none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GptOssForCausalLM, Llama4ForCausalLM, Llama4TextConfig

from graft.controls.application import make_control, measure_own_share
from graft.controls.constant_shift import find_linear
from graft.controls.inputs import ControlInput, find_matrices
from graft.explain.residual import place_tensor
from graft.localize.localization import localize_skill
from graft.patch.skill_patch import Patch
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.tensors.transposed import find_transposed
from tests.packed_models import DOWN, EXPERTS, GATE_UP, INNER, ROUTER, SIZES, WIDTH, tiny_gpt_oss

LINES = {"random_rows": "columns", "random_columns": "rows"}


def move(model: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Save a model before and after all its weights move, those of the first expert and its first input furthest."""
    torch.manual_seed(0)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            delta = 0.1 * torch.randn_like(tensor)
            if name == GATE_UP:
                delta[0] *= 3
                delta[0, 0] *= 3
            tensor += delta
    model.save_pretrained(tmp_path / "tuned")
    return tmp_path / "base", tmp_path / "tuned"


def inputs_of(folders: tuple[Path, Path], task: Task, name: str) -> ControlInput:
    patch = localize_skill(*folders, None, LocalizeSpec(method="magnitude", density=0.15, scope="layers"))
    return ControlInput(name, patch, CheckpointPair.open(*folders), task)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return move(tiny_gpt_oss(), tmp_path_factory.mktemp("gpt-oss"))


def place(patch: Patch, name: str) -> dict[str, list[tuple[int, int]]]:
    """Return the (expert, line) of every entry of a packed tensor, by the numbers that its shape gives."""
    expert, column, row = np.unravel_index(patch.mask[name], patch.mask.specs[name].shape)
    return {
        "columns": list(zip(expert.tolist(), column.tolist(), strict=True)),
        "rows": list(zip(expert.tolist(), row.tolist(), strict=True)),
        "experts": [(int(number), 0) for number in expert],
    }


def make(folders: tuple[Path, Path], task: Task, name: str) -> tuple[ControlInput, Patch]:
    inputs = inputs_of(folders, task, name)
    made = make_control(inputs)
    assert isinstance(made, Patch)
    return inputs, made


def test_packed_experts_are_matrices_and_their_biases_are_vectors(folders: tuple[Path, Path], task: Task) -> None:
    inputs = inputs_of(folders, task, "random_rows")
    assert {GATE_UP, DOWN, ROUTER} <= set(inputs.matrices)
    assert inputs.patch.mask.specs[f"{GATE_UP}_bias"].shape == (EXPERTS, 2 * INNER)
    assert f"{GATE_UP}_bias" in inputs.vectors
    told = find_transposed(inputs.pair.base, [GATE_UP, DOWN])
    for name in (GATE_UP, DOWN):  # the explanation of a mask says the same
        where = place_tensor(name, inputs.patch.mask.specs[name].shape, WIDTH, told)
        assert (where.kind, where.transposed) == ("matrix", True)


def test_lines_are_numbered_on_from_expert_to_expert(folders: tuple[Path, Path], task: Task) -> None:
    inputs = inputs_of(folders, task, "random_rows")
    indices = np.ravel_multi_index(([0, 1, 2], [7, 3, 0], [11, 4, 5]), (EXPERTS, WIDTH, 2 * INNER))
    assert inputs.columns(GATE_UP, indices).tolist() == [7, WIDTH + 3, 2 * WIDTH]
    assert inputs.rows(GATE_UP, indices).tolist() == [11, 2 * INNER + 4, 4 * INNER + 5]
    assert inputs.experts(GATE_UP, indices).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", [*LINES, "random_in_tensors"])
def test_what_is_redrawn_keeps_its_lines_within_each_expert(name: str, folders: tuple[Path, Path], task: Task) -> None:
    inputs, made = make(folders, task, name)
    kept = LINES.get(name, "experts")
    for tensor in (GATE_UP, DOWN):
        mine, drawn = place(inputs.patch, tensor), place(made, tensor)
        assert Counter(drawn[kept]) == Counter(mine[kept])
        assert len({expert for expert, _ in mine[kept]}) > 1
        assert not np.array_equal(made.mask[tensor], inputs.patch.mask[tensor])
    other = {"columns": "rows", "rows": "columns", "experts": "columns"}[kept]
    assert Counter(place(made, GATE_UP)[other]) != Counter(place(inputs.patch, GATE_UP)[other])
    assert len(made) == len(inputs.patch)
    share = measure_own_share(made, inputs.patch)
    assert share is not None
    assert share < 0.5


def test_columns_of_experts_are_taken_whole(folders: tuple[Path, Path], task: Task) -> None:
    inputs, made = make(folders, task, "whole_columns")
    assert len(made) == len(inputs.patch)
    taken = Counter(place(made, GATE_UP)["columns"])
    assert taken[0, 0] == 2 * INNER  # the input that moved furthest, of the first expert alone
    assert sum(n < 2 * INNER for n in taken.values()) <= 1


def test_main_columns_are_those_of_each_expert(folders: tuple[Path, Path], task: Task) -> None:
    inputs, made = make(folders, task, "main_columns")
    mine, taken = Counter(place(inputs.patch, GATE_UP)["columns"]), Counter(place(made, GATE_UP)["columns"])
    assert set(taken.values()) == {2 * INNER}
    for expert in {expert for expert, _ in mine}:
        n = sum(n for (of, _), n in mine.items() if of == expert)
        held = [mine[line] for line in taken if line[0] == expert]
        assert sum(held) >= 0.8 * n > sum(held) - min(held)


def test_vectors_alone_hold_no_expert_but_its_bias(folders: tuple[Path, Path], task: Task) -> None:
    inputs, made = make(folders, task, "vectors_only")
    assert tuple(made.mask) == inputs.vectors
    assert {GATE_UP, DOWN}.isdisjoint(made.mask)
    assert f"{GATE_UP}_bias" in made.mask
    assert made.provenance.method["kept_outside_matrices"] == len(made)


def test_a_shift_leaves_experts_to_the_patch(folders: tuple[Path, Path], task: Task) -> None:
    names = inputs_of(folders, task, "constant_shift").matrices
    found = find_linear(GptOssForCausalLM.from_pretrained(folders[0]), names)
    assert "model.layers.0.self_attn.q_proj.weight" in found
    assert {GATE_UP, DOWN}.isdisjoint(found)


def test_experts_of_which_nothing_tells_their_input_stay_as_the_patch_has_them(tmp_path: Path, task: Task) -> None:
    config = Llama4TextConfig(intermediate_size_mlp=INNER, interleave_moe_layer_step=1, **SIZES)
    inputs = inputs_of(move(Llama4ForCausalLM(config), tmp_path), task, "random_rows")
    packed = [name for name in inputs.patch.mask if name.endswith("experts.gate_up_proj")]
    assert packed
    assert set(packed) <= set(find_matrices(inputs.patch.mask))
    assert set(packed) <= set(inputs.vectors)
    made = make_control(inputs)
    assert isinstance(made, Patch)
    assert np.array_equal(made.mask[packed[0]], inputs.patch.mask[packed[0]])
    assert made.mask != inputs.patch.mask
