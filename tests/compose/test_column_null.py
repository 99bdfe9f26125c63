"""The null that keeps columns: on stored matrices whose inputs are either axis, against matrices counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from graft.compose.column_null import expect_by_column, find_axes, view_matrices
from graft.compose.region_overlap import Overlap, format_chance, format_untold, measure_overlap
from graft.compose.task_overlap import measure_task_overlap
from graft.errors import PatchMismatchError
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask

CONV1D = "transformer.h.0.mlp.c_fc.weight"  # (8, 32): inputs first


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8, **ends)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


def expected(matrices: tuple[int, int, int], *masks: np.ndarray, axis: int) -> float:
    """By plain loops: each matrix of each mask, its counts by input dimension."""
    total = 0.0
    for one, other in zip(masks[0].reshape(matrices), masks[1].reshape(matrices), strict=True):
        counts = [matrix.sum(1 - axis) for matrix in (one, other)]
        total += float((counts[0] * counts[1]).sum()) / one.shape[1 - axis]
    return total


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("name", "shape", "matrices"),
    [
        ("layers.0.w", (4, 6), (1, 4, 6)),
        ("layers.0.b", (24,), (1, 24, 1)),
        ("layers.0.conv.weight", (4, 3, 2), (1, 4, 6)),
        ("layers.0.experts.up_proj", (3, 4, 2), (3, 4, 2)),
    ],
)
def test_counts_by_input_dimension_are_those_of_plain_matrices(
    name: str, shape: tuple[int, ...], matrices: tuple[int, int, int], axis: int
) -> None:
    draws = np.random.default_rng(0)
    masks = [draws.random(24) < share for share in (0.3, 0.6)]
    assert view_matrices(name, shape) == matrices
    found = expect_by_column(matrices, [np.flatnonzero(mask) for mask in masks], axis)
    assert found[0, 1] == found[1, 0] == pytest.approx(expected(matrices, *masks, axis=axis))


def overlap_in_one_input(base: Path | None) -> Overlap:
    """Of masks of a Conv1D whose entries lie in one input dimension, which is one row of what is stored."""
    spec = {CONV1D: TensorSpec("F32", (8, 32))}
    draws = np.random.default_rng(0)
    rows = [[3 * 32 + int(i) for i in draws.choice(32, 16, replace=False)] for _ in range(2)]
    return measure_overlap(*(Mask.of(spec, {CONV1D: row}) for row in rows), samples=2, base=base)


def test_the_base_tells_which_axis_of_a_conv1d_is_its_input(gpt2: Path) -> None:
    told = overlap_in_one_input(gpt2)
    assert told.pairs[0].expected_by_column == pytest.approx(8)  # 16 of 32 rows, twice
    assert told.untold == ()
    assert format_untold(told.untold) == []


def test_without_it_chance_by_column_is_unknown_and_all_else_is_as_with_it(gpt2: Path) -> None:
    told, untold = overlap_in_one_input(gpt2), overlap_in_one_input(None)
    pair = untold.pairs[0]
    assert pair.expected_by_column is None
    assert untold.to_json()["pairs"][0]["expected_by_column"] is None
    assert np.isnan(untold.matrix("expected_by_column")).all()
    assert pair.expected_by_degrees == told.pairs[0].expected_by_degrees == pair.intersection
    assert untold.untold == (CONV1D,)
    assert "unknown by column" in format_chance(vars(pair))
    assert format_untold(untold.untold) == [
        f"by column: unknown where two touch {CONV1D!r}: --base MODEL tells which axis its inputs number"
    ]


def test_a_matrix_that_one_region_alone_touches_need_not_be_told() -> None:
    specs = {CONV1D: TensorSpec("F32", (8, 32)), "layers.0.w": TensorSpec("F32", (4, 4))}
    one = Mask.of(specs, {CONV1D: [1, 2], "layers.0.w": [1]})
    other = Mask.of(specs, {"layers.0.w": [5, 6]})
    found = measure_overlap(one, other)
    assert found.pairs[0].expected_by_column == pytest.approx(1 / 4)  # one of the two in its column of four
    assert found.untold == ()


def test_means_over_seeds_are_known_where_every_pair_is() -> None:
    specs = {CONV1D: TensorSpec("F32", (8, 32)), "layers.0.w": TensorSpec("F32", (4, 4))}
    plain = [Mask.of(specs, {"layers.0.w": [i]}) for i in range(2)]
    mixed = Mask.of(specs, {CONV1D: [1, 2], "layers.0.w": [1]})
    found = measure_task_overlap({"plain": plain, "mixed": [mixed, mixed], "one": [mixed, plain[0]]})
    by_column = found.means["expected_by_column"]
    assert by_column[0, 1] > 0
    assert np.isnan(by_column[1, 1])
    assert np.isnan(by_column[1, 2])  # one pair of two is known: a mean over it is not the mean
    assert found.lines()[-1].startswith(f"by column: unknown where two touch {CONV1D!r}")


def test_names_tell_of_embeddings_and_plain_matrices_and_a_base_must_fit(gpt2: Path) -> None:
    specs = {
        "transformer.wte.weight": TensorSpec("F32", (16, 8)),
        "layers.0.w": TensorSpec("F32", (4, 4)),
        "layers.0.experts.up_proj": TensorSpec("F32", (2, 4, 4)),
    }
    assert find_axes(specs, None) == {"transformer.wte.weight": 0, "layers.0.w": 1}
    with pytest.raises(PatchMismatchError, match="does not fit"):
        find_axes(specs, gpt2)


def test_experts_are_sampled_each_for_itself() -> None:
    """One entry in each row and column of an expert: with four rows of two experts as one matrix, columns have two."""
    specs = {"layers.0.experts.up_proj": TensorSpec("F32", (2, 2, 2))}
    diagonals = Mask.of(specs, {"layers.0.experts.up_proj": [0, 3, 4, 7]})
    crossed = Mask.of(specs, {"layers.0.experts.up_proj": [1, 2, 4, 7]})
    pair = measure_overlap(diagonals, crossed, samples=200).pairs[0]
    drawn = {0.0, 2.0, 4.0}  # an expert is either diagonal: it is shared whole or not at all
    assert pair.low_by_degrees in drawn
    assert pair.high_by_degrees in drawn
    assert pair.expected_by_degrees == pytest.approx(2, abs=0.5)
