"""Whole columns and rows chosen on purpose: exact budgets, the best lines, and which axis is which."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from graft.errors import BudgetError, CheckpointError, ConfigError
from graft.files.tensor_spec import TensorSpec
from graft.localize.lines import LineBudget, count_lines, find_codes, select_lines, total_lines
from graft.localize.localization import localize_skill
from graft.patch.format.lines import encode_entries
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.refit.refit import refit_skill
from graft.scores.registry import SCORES
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import write_single
from tests.models import general_of

FREE = LocalizeSpec("magnitude", budget=600)


def choose(matrices: dict[str, torch.Tensor], codes: dict[str, str], budget: LineBudget) -> Mask:
    specs = {name: TensorSpec("F32", tuple(matrix.shape)) for name, matrix in matrices.items()}
    totals = {
        name: partial(total_lines, matrix.flatten(), matrix.flatten() != 0, tuple(matrix.shape), codes[name])
        for name, matrix in matrices.items()
    }
    return select_lines(totals, specs, codes, budget)


def test_the_example_of_the_module() -> None:
    matrices = {"a": torch.tensor([[9.0, 1, 0], [3, 0, 0]]), "b": torch.tensor([[4.0, 4]])}
    mask = choose(matrices, dict.fromkeys("ab", "columns"), LineBudget("entries", 5))
    assert {name: mask[name].tolist() for name in mask} == {"a": [0, 3], "b": [0, 1]}
    rows = choose(matrices, dict.fromkeys("ab", "rows"), LineBudget("entries", 5))
    assert {name: rows[name].tolist() for name in rows} == {"a": [0, 1, 2], "b": [0, 1]}
    by_bytes = choose(matrices, dict.fromkeys("ab", "columns"), LineBudget("bytes", 2 * 4 + 2 + 6))
    assert {name: by_bytes[name].tolist() for name in by_bytes} == {"a": [0, 3], "b": [0]}


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_budgets_are_never_exceeded_and_lines_are_whole(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    matrices = {str(i): torch.randint(-2, 3, shape, generator=generator).float() for i, shape in enumerate(shapes)}
    codes = {name: data.draw(st.sampled_from(["rows", "columns"])) for name in matrices}
    unit = data.draw(st.sampled_from(["entries", "lines", "bytes"]))
    size = data.draw(st.integers(1, 40))
    budget = LineBudget(unit, size)
    try:
        mask = choose(matrices, codes, budget)
    except BudgetError:
        return
    costs = {name: budget.cost(mask.specs[name], codes[name]) for name in mask}
    n_lines = {name: count_lines(Mask.of(mask.specs, {name: mask[name]}), codes) for name in mask}
    spent = sum(costs[name] * n_lines[name] for name in mask)
    assert spent == size if unit == "lines" else 1 <= spent <= size
    for name in mask:
        grid = np.zeros(matrices[name].shape, bool)
        grid.flat[mask[name]] = True
        axis = 0 if codes[name] == "columns" else 1
        assert (grid.all(axis) | ~grid.any(axis)).all()
        touched = (matrices[name] != 0).numpy().any(axis)
        assert (touched | ~grid.any(axis)).all()  # no line of which nothing changed
    if unit == "lines":  # the lines with the largest totals
        sums = {
            (name, i): float(total)
            for name, matrix in matrices.items()
            for i, total in enumerate(matrix.sum(0 if codes[name] == "columns" else 1))
            if bool(((matrix != 0).any(0 if codes[name] == "columns" else 1))[i])
        }
        best = sorted(sums.values(), reverse=True)[:size]
        assert float(sum(matrices[name].flatten()[torch.tensor(mask[name])].sum() for name in mask)) == sum(best)


def test_a_line_that_does_not_fit_is_passed_over() -> None:
    matrices = {"long": torch.full((9, 2), 5.0), "short": torch.full((2, 3), 1.0)}
    mask = choose(matrices, dict.fromkeys(matrices, "columns"), LineBudget("entries", 12))
    assert {name: len(mask[name]) for name in mask} == {"long": 9, "short": 2}
    with pytest.raises(
        BudgetError, match="no line of a matrix fits a budget of 1 entries: the shortest in scope takes 2"
    ):
        choose(matrices, dict.fromkeys(matrices, "columns"), LineBudget("entries", 1))
    with pytest.raises(BudgetError, match="a budget of 6 lines, but only 5 in scope changed"):
        choose(matrices, dict.fromkeys(matrices, "columns"), LineBudget("lines", 6))
    with pytest.raises(CheckpointError, match="NaN"):
        choose({"w": torch.tensor([[torch.nan, 1]])}, {"w": "columns"}, LineBudget("lines", 1))


def test_what_has_no_score_adds_nothing_and_a_line_of_such_alone_is_not_taken() -> None:
    none = -float("inf")
    scores, changed = torch.tensor([[3.0, none, none], [none, none, none]]), torch.tensor([[True] * 3, [False] * 3])
    for code, expected in (("columns", [3.0, none, none]), ("rows", [3.0, none])):
        assert total_lines(scores.flatten(), changed.flatten(), (2, 3), code).tolist() == expected


@pytest.mark.parametrize("structure", ["columns", "rows"])
@pytest.mark.parametrize("method", [name for name in SCORES if name != "talos"])
def test_every_score_chooses_whole_lines(method: str, structure: Any, base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec(method, budget=600, points=2, structure=structure)
    patch = localize_skill(base, tuned, task, config, general=general_of(method))
    codes = find_codes(Checkpoint.open(base), list(patch.mask), structure)
    assert set(codes.values()) == {structure}  # of linear layers as they are stored
    assert 500 < len(patch) <= 600
    assert patch.provenance.method["lines"] == count_lines(patch.mask, codes)
    assert patch.provenance.method["structure"] == structure
    few = dataclasses.replace(config, budget=None, lines=5)
    again = localize_skill(base, tuned, task, few, general=general_of(method))
    assert again.provenance.method["lines"] == 5


def test_a_file_of_lines_takes_hardly_more_than_its_values(base: Path, tuned: Path) -> None:
    whole = localize_skill(base, tuned, None, dataclasses.replace(FREE, structure="columns"))
    free = localize_skill(base, tuned, None, dataclasses.replace(FREE, budget=len(whole)))
    assert len(free) == len(whole)
    saved = len(patch_bytes(free)) - len(patch_bytes(whole))
    assert saved > 1.5 * len(whole)  # two bytes an entry, less what is left of names and settings
    by_bytes = localize_skill(base, tuned, None, dataclasses.replace(FREE, budget=None, structure="rows", bytes=900))
    n = by_bytes.provenance.method["lines"]
    assert 4 * len(by_bytes) + 2 * n <= 900


@pytest.mark.parametrize("with_base_values", [False, True])
def test_a_budget_of_bytes_counts_all_values_that_the_file_holds(
    with_base_values: bool, base: Path, tuned: Path, task: Task
) -> None:
    config = LocalizeSpec("magnitude", structure="columns", bytes=1000)
    patch = localize_skill(base, tuned, None, config, with_base_values=with_base_values)
    refit = RefitSpec(structure="columns", bytes=1000, epochs=1)
    for found in (patch, refit_skill(base, tuned, task, refit, with_base_values=with_base_values)):
        data = patch_bytes(found)
        assert 700 < len(data) - 8 - int.from_bytes(data[:8], "little") <= 1000


def test_a_line_far_from_the_one_before_costs_the_steps_to_it() -> None:
    spec = TensorSpec("F32", (140_000, 2))
    total = torch.full((140_000,), -torch.inf, dtype=torch.float64)
    total[139_990:] = 1.0
    for size, n in ((30, 2), (34, 3), (13, 0)):  # 10 bytes a line and twice 2 to the first
        budget = LineBudget("bytes", size)
        if not n:
            with pytest.raises(BudgetError, match=r"13 bytes: the shortest in scope takes 14"):
                select_lines({"w": lambda: total}, {"w": spec}, {"w": "rows"}, budget)
            continue
        mask = select_lines({"w": lambda: total}, {"w": spec}, {"w": "rows"}, budget)
        tokens = encode_entries(mask["w"], spec, by_line=True).gaps
        assert (len(mask) // 2, tokens.nbytes + 4 * len(mask)) == (n, 4 + 10 * n)


def test_random_lines_do_not_favor_long_ones(base: Path, tuned: Path) -> None:
    shares = []
    for seed in range(5):
        config = LocalizeSpec("random", structure="columns", lines=20, seed=seed)
        mask = localize_skill(base, tuned, None, config).mask
        lengths = {name: mask.specs[name].shape[0] for name in mask}
        longest = max(lengths.values())
        shares.append(sum(len(mask[name]) // longest for name in mask if lengths[name] == longest) / 20)
    assert 0.05 < float(np.mean(shares)) < 0.8


def test_columns_of_a_conv1d_are_its_input_dimensions(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for _, weight in model.named_parameters():
            weight += 0.01
        model.transformer.h[0].mlp.c_fc.weight[3] += 5  # of (in, out): input dimension 3
    model.save_pretrained(tmp_path / "tuned")
    patch = localize_skill(
        tmp_path / "base", tmp_path / "tuned", None, LocalizeSpec("magnitude", structure="columns", lines=1)
    )
    assert {name: (values // 32).tolist() for name, values in patch.mask.indices.items()} == {
        "transformer.h.0.mlp.c_fc.weight": [3] * 32
    }
    assert b"rows" in patch_bytes(patch)[:4000]  # as it is stored
    base = write_single(
        tmp_path / "bare", {"h.0.attn.c_attn.weight": torch.zeros(4, 4), "h.0.w.weight": torch.zeros(4, 4)}
    )
    assert find_codes(Checkpoint.open(base), ["h.0.w.weight"], "columns") == {"h.0.w.weight": "columns"}
    with pytest.raises(CheckpointError, match=r"c_attn.weight': which axis is its input is told by the model's config"):
        find_codes(Checkpoint.open(base), ["h.0.attn.c_attn.weight"], "columns")


def test_what_does_not_go_with_a_structure_is_refused(base: Path, tuned: Path, task: Task) -> None:
    for method in ("learned", "paper"):
        with pytest.raises(ConfigError, match=f"method '{method}' chooses entries one by one, and no whole columns"):
            localize_skill(base, tuned, task, LocalizeSpec(method, structure="columns"))
    with pytest.raises(ConfigError, match="holds no matrix"):
        localize_skill(base, tuned, None, LocalizeSpec("magnitude", structure="rows", scope="bias$"))
    for settings_, fact in (
        ({"structure": "rank"}, "structure rank needs max_rank"),
        ({"structure": "columns", "max_rank": 3}, "structure columns does not go with max_rank"),
        ({"lines": 3}, "lines goes with structure columns or rows alone"),
        ({"bytes": 3, "structure": "rank", "max_rank": 2}, "bytes goes with structure columns or rows alone"),
        ({"lines": 3, "budget": 3, "structure": "rows"}, "give one of budget and lines"),
        ({"lines": 3, "structure": "rows", "allocation": "per-layer"}, "allocation per-layer shares out"),
        ({"structure": "diagonals"}, "'diagonals' is none of entries, columns, rows, rank"),
    ):
        with pytest.raises(ValueError, match=fact):
            LocalizeSpec(**settings_)  # type: ignore[arg-type]


def test_the_rank_by_its_other_name(base: Path, tuned: Path) -> None:
    named = localize_skill(base, tuned, None, dataclasses.replace(FREE, structure="rank", max_rank=2))
    assert named.mask == localize_skill(base, tuned, None, dataclasses.replace(FREE, max_rank=2)).mask
    assert named.mask != localize_skill(base, tuned, None, FREE).mask
    assert localize_skill(base, tuned, None, dataclasses.replace(FREE, structure="entries")).mask == (
        localize_skill(base, tuned, None, FREE).mask
    )


@pytest.mark.parametrize("allocation", ["per-tensor", "per-layer"])
def test_shares_of_a_budget_hold_whole_lines(allocation: Any, base: Path, tuned: Path) -> None:
    config = LocalizeSpec("magnitude", density=0.2, structure="columns", allocation=allocation)
    patch = localize_skill(base, tuned, None, config)
    assert 0 < len(patch) <= round(0.2 * Checkpoint.open(base).n_parameters)
    k = round(0.2 * Checkpoint.open(base).n_parameters)
    shortest = min(min(spec.shape) for spec in patch.mask.specs.values())
    assert k - len(patch) < shortest  # what the groups leave of their shares is used too


def test_what_groups_leave_goes_to_the_best_lines_of_all() -> None:
    matrices = {name: torch.tensor([[9.0 - i, 2, 1, 1]] * 4) for i, name in enumerate("abc")}
    codes = dict.fromkeys(matrices, "columns")
    mask = choose(matrices, codes, LineBudget("entries", 18, "per-tensor"))  # 6 each: a column and 2 entries left
    assert {name: sorted({int(i) % 4 for i in mask[name]}) for name in mask} == {"a": [0, 1], "b": [0], "c": [0]}
    mask = choose(matrices, codes, LineBudget("entries", 9, "per-tensor"))  # 3 each, which no column fits into
    assert {name: sorted({int(i) % 4 for i in mask[name]}) for name in mask} == {"a": [0], "b": [0]}
