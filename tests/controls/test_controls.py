"""Controls of a patch keep what they say they keep, take tuned values, and differ in the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.controls.application import make_control, measure_own_share, put_on
from graft.controls.constant_shift import OutputShift, measure_mean_inputs
from graft.controls.inputs import ControlInput
from graft.controls.redrawn import draw_quotas
from graft.controls.registry import CONTROLS, is_made_of_patch
from graft.controls.vectors import keep_tensors
from graft.localize.localization import localize_skill, open_base_head
from graft.localize.registry import LOCALIZATION_METHODS
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.models import copy_with

PATCH_CONTROLS = [name for name in CONTROLS if is_made_of_patch(name)]
KEEPING = {"random_rows": "columns", "random_columns": "rows"}


@pytest.fixture(scope="module")
def own(shelf: Path) -> Patch:
    config = LocalizeSpec(method="magnitude", density=0.1, scope="layers")
    return localize_skill(shelf / "base", shelf / "tuned", None, config)


def inputs_of(shelf: Path, own: Patch, name: str, seed: int = 0) -> ControlInput:
    pair = CheckpointPair.open(shelf / "base", shelf / "tuned").without_rounding()
    return ControlInput(name, own, pair, Task.load(shelf / "toy" / "task.yaml"), seed)


def control_of(shelf: Path, own: Patch, name: str, seed: int = 0) -> Patch:
    made = make_control(inputs_of(shelf, own, name, seed))
    assert isinstance(made, Patch)
    return made


def counts(inputs: ControlInput, patch: Patch, axis: str) -> dict[str, Counter[int]]:
    split = getattr(inputs, axis)
    return {name: Counter(split(name, patch.mask[name]).tolist()) for name in inputs.matrices}


def test_there_are_matrices_and_vectors_and_more_than_one_column(shelf: Path, own: Patch) -> None:
    inputs = inputs_of(shelf, own, "random_rows")
    assert inputs.matrices
    assert inputs.vectors
    assert sum(map(len, counts(inputs, own, "columns").values())) > 20


@pytest.mark.parametrize("name", KEEPING)
def test_the_counts_of_one_side_are_kept_and_those_of_the_other_are_not(name: str, shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, name), control_of(shelf, own, name)
    other = {"columns": "rows", "rows": "columns"}[KEEPING[name]]
    assert counts(inputs, made, KEEPING[name]) == counts(inputs, own, KEEPING[name])
    assert counts(inputs, made, other) != counts(inputs, own, other)
    assert made.mask != own.mask


@pytest.mark.parametrize("name", ["random_rows", "random_columns", "random_in_tensors"])
def test_the_patchs_own_entries_are_drawn_only_where_no_others_are_left(name: str, shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, name), control_of(shelf, own, name)
    group = {"random_rows": inputs.columns, "random_columns": inputs.rows}.get(name, lambda _, at: np.zeros_like(at))
    n_forced = 0
    for tensor in inputs.matrices:
        mine, changed = own.mask[tensor], inputs.pair.changed(tensor).numpy()
        wanted, there = Counter(group(tensor, mine).tolist()), Counter(group(tensor, changed).tolist())
        forced = sum(max(0, 2 * n - there[line]) for line, n in wanted.items())  # all n others are not to be had
        assert len(np.intersect1d(made.mask[tensor], mine)) == forced
        n_forced += forced
    assert measure_own_share(made, own) == n_forced / sum(len(own.mask[tensor]) for tensor in inputs.matrices)
    assert n_forced < 0.1 * len(own)


def test_a_control_of_all_that_changed_is_the_patch(shelf: Path, own: Patch) -> None:
    pair = CheckpointPair.open(shelf / "base", shelf / "tuned").without_rounding()
    config = LocalizeSpec(method="magnitude", budget=17_000, scope="layers")  # of the 17,045 that changed
    everything = localize_skill(shelf / "base", shelf / "tuned", None, config)
    inputs = ControlInput("random_rows", everything, pair, Task.load(shelf / "toy" / "task.yaml"))
    made = make_control(inputs)
    assert measure_own_share(made, everything) > 0.99
    assert measure_own_share(make_control(inputs_of(shelf, own, "constant_shift")), own) is None


@pytest.mark.parametrize("name", ["random_rows", "random_columns", "random_in_tensors", "whole_columns"])
def test_entries_are_as_many_changed_and_have_tuned_values(name: str, shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, name), control_of(shelf, own, name)
    assert len(made) == len(own)
    for tensor in made.mask:
        changed = set(inputs.pair.changed(tensor).tolist())
        assert set(made.mask[tensor].tolist()) <= changed
        at = torch.tensor(made.mask[tensor])
        assert torch.equal(made.values[tensor], inputs.pair.read_at(tensor, at)[1])
    for tensor in inputs.vectors:
        assert np.array_equal(made.mask[tensor], own.mask[tensor])
    if name != "whole_columns":
        assert all(len(made.mask[tensor]) == len(own.mask[tensor]) for tensor in inputs.matrices)


@pytest.fixture(scope="module")
def barely_tuned(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a third of its entries moved, so that whole lines hold others too."""
    torch.manual_seed(0)

    def move(_: str, tensor: torch.Tensor) -> None:
        tensor += 0.1 * torch.randn_like(tensor) * (torch.rand_like(tensor) < 1 / 3)

    return copy_with(shelf / "base", tmp_path_factory.mktemp("barely") / "tuned", move)


@pytest.mark.parametrize("structure", ["columns", "rows"])
def test_controls_of_whole_lines_move_as_many_weights(structure: Any, shelf: Path, barely_tuned: Path) -> None:
    config = LocalizeSpec(method="magnitude", structure=structure, lines=5)
    lines = localize_skill(shelf / "base", barely_tuned, None, config)
    pair, task = CheckpointPair.open(shelf / "base", barely_tuned), Task.load(shelf / "toy" / "task.yaml")
    n_moved = sum(len(set(lines.mask[name].tolist()) & set(pair.changed(name).tolist())) for name in lines.mask)
    assert 0 < n_moved < len(lines) / 2
    names = ("random_rows", "random_columns", "random_in_tensors", "whole_columns")
    for name in names:
        made = make_control(ControlInput(name, lines, pair, task))
        assert isinstance(made, Patch)
        assert len(made) == n_moved, name
        assert all(set(made.mask[tensor].tolist()) <= set(pair.changed(tensor).tolist()) for tensor in made.mask)
    assert ControlInput("sparta", lines, pair, task).n_moved == n_moved


@pytest.mark.parametrize("name", ["random_rows", "random_columns", "random_in_tensors"])
def test_draws_follow_the_seed_alone(name: str, shelf: Path, own: Patch) -> None:
    assert control_of(shelf, own, name).mask == control_of(shelf, own, name).mask
    assert control_of(shelf, own, name).mask != control_of(shelf, own, name, seed=1).mask


def test_whole_columns_are_whole_but_for_the_last(shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, "whole_columns"), control_of(shelf, own, "whole_columns")
    broken = 0
    for name in inputs.matrices:
        taken = Counter(inputs.columns(name, made.mask[name]).tolist())
        there = Counter(inputs.columns(name, inputs.pair.changed(name).numpy()).tolist())
        broken += sum(taken[column] < there[column] for column in taken)
    assert broken <= 1


def test_main_columns_hold_four_fifths_of_each_matrix_and_no_column_too_many(shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, "main_columns"), control_of(shelf, own, "main_columns")
    for name in inputs.matrices:
        mine = Counter(inputs.columns(name, own.mask[name]).tolist())
        taken = set(inputs.columns(name, made.mask[name]).tolist())
        held = sum(mine[column] for column in taken)
        assert held >= 0.8 * len(own.mask[name]) > held - min(mine[column] for column in taken)


def test_vectors_alone_are_the_patchs_own(shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, "vectors_only"), control_of(shelf, own, "vectors_only")
    assert tuple(made.mask) == inputs.vectors
    assert all(torch.equal(made.values[name], own.values[name]) for name in inputs.vectors)


def test_where_there_are_no_vectors_nothing_changes(shelf: Path, own: Patch) -> None:
    inputs = inputs_of(shelf, own, "vectors_only")
    head = open_base_head(inputs.pair, inputs.task, inputs.runtime)
    examples = inputs.task.train_examples()[:8]
    before = head.predict(examples)
    with apply_patch(head.model, keep_tensors(inputs, inputs.vectors)):
        assert not torch.equal(head.predict(examples), before)
    with apply_patch(head.model, keep_tensors(inputs, ())):
        assert torch.equal(head.predict(examples), before)


def test_a_shift_is_what_the_entries_add_to_the_mean_input(shelf: Path, own: Patch) -> None:
    inputs = inputs_of(shelf, own, "constant_shift")
    made = make_control(inputs)
    assert isinstance(made, OutputShift)
    head = open_base_head(inputs.pair, inputs.task, inputs.runtime)
    name = max(made.shifts, key=lambda name: len(own.mask[name]))
    means = measure_mean_inputs(head, [name], inputs.task.train_examples())[name].float()
    delta = torch.zeros(own.mask.specs[name].shape).flatten()
    at = torch.tensor(own.mask[name])
    delta[at] = own.values[name] - inputs.pair.base.read(name).flatten()[at]
    assert torch.allclose(made.shifts[name], delta.view(own.mask.specs[name].shape) @ means, atol=1e-5)
    assert made.k == own.k


def test_a_shift_comes_off_again_and_does_something_before(shelf: Path, own: Patch) -> None:
    inputs = inputs_of(shelf, own, "constant_shift")
    made, head = make_control(inputs), open_base_head(inputs.pair, inputs.task, inputs.runtime)
    assert isinstance(made, OutputShift)
    assert made.shifts
    examples = inputs.task.train_examples()[:8]
    before = head.predict(examples)
    with apply_patch(head.model, made.rest):
        rest = head.predict(examples)
    with put_on(head.model, made):
        assert not torch.equal(head.predict(examples), rest)
    assert torch.equal(head.predict(examples), before)


def test_mean_inputs_count_neither_padding_nor_label_texts(shelf: Path, own: Patch) -> None:
    inputs = inputs_of(shelf, own, "constant_shift")
    head = open_base_head(inputs.pair, inputs.task, inputs.runtime)
    name = "encoder.layer.0.attention.self.query.weight"
    examples = inputs.task.train_examples()[:6]
    states: list[torch.Tensor] = []
    layer = head.model.get_submodule(name.removesuffix(".weight"))
    hook = layer.register_forward_pre_hook(lambda _, given: states.append(given[0][0]))
    with torch.no_grad():
        for example in examples:  # alone, without padding, and without the head, which embeds label texts too
            head.model(**head.tokenize([example.texts]))
    hook.remove()
    assert len({len(example.texts[0].split()) for example in examples}) > 1  # so that a batch of all is padded
    expected = torch.cat(states).double().mean(0)
    for batch_size in (1, 6):
        found = measure_mean_inputs(head, [name], examples, batch_size=batch_size)[name]
        assert torch.allclose(found, expected, atol=1e-6)


def test_trained_entries_are_as_many_and_not_the_tuned_values(shelf: Path, own: Patch) -> None:
    inputs, made = inputs_of(shelf, own, "sparta"), control_of(shelf, own, "sparta")
    assert made.k == own.k
    assert made.provenance.values == "refit"
    assert any(
        not torch.equal(made.values[name], inputs.pair.read_at(name, torch.tensor(made.mask[name]))[1])
        for name in made.mask
    )


@pytest.mark.parametrize("name", [name for name in PATCH_CONTROLS if name not in ("constant_shift", "sparta")])
def test_a_saved_control_says_whose_it_is(name: str, shelf: Path, own: Patch, tmp_path: Path) -> None:
    save_patch(control_of(shelf, own, name), tmp_path / "patch.safetensors")
    method = load_patch(tmp_path / "patch.safetensors").provenance.method
    assert method["method"] == name
    assert method["of"]["method"] == "magnitude"
    inputs = inputs_of(shelf, own, name)
    assert method["kept_outside_matrices"] == sum(len(own.mask[name]) for name in inputs.vectors)


def test_methods_of_localization_are_controls_too() -> None:
    assert [name for name in CONTROLS if not is_made_of_patch(name)] == list(LOCALIZATION_METHODS)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
    st.integers(0, 99),
)
def test_quotas_are_met_by_the_smallest_keys(groups: list[int], quotas: list[int], seed: int) -> None:
    keys = np.random.default_rng(seed).random(len(groups)).astype(np.float32)
    drawn = draw_quotas(np.array(groups), np.array(quotas), keys)
    expected = []
    for group, quota in enumerate(quotas):
        mine = [i for i, other in enumerate(groups) if other == group]
        expected += sorted(mine, key=lambda i: keys[i])[:quota]
    assert drawn.tolist() == sorted(expected)
