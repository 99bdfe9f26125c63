"""Exclusion is a difference: what goes, what stays, and that it undoes a disjoint composition."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.compose.composition import compose_patches
from graft.compose.exclusion import exclude_patches
from graft.compose.region_overlap import measure_overlap
from graft.errors import BudgetError, PatchError, PatchMismatchError
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import same_bits, spec_of
from tests.checkpoints import make_patch, save_model, small_bert, write_single
from tests.compose.patches import BASE, disjoint_patches, patch_of, patches, same_content

QUIET = settings(derandomize=True, deadline=None, max_examples=60)


@QUIET
@given(disjoint_patches(3))
def test_composing_then_excluding_gives_back_the_first(parts: list[Patch]) -> None:
    a, b, c = parts
    assert same_content(exclude_patches(compose_patches(a, b, c), b, c), a)
    assert same_content(exclude_patches(compose_patches(a, b), b.mask), a)
    untouched = exclude_patches(a, b, c)
    assert same_content(untouched, a)
    assert untouched.provenance.method["removed"] == 0


@QUIET
@given(patches(1, 1))
def test_excluding_nothing_changes_nothing_and_excluding_itself_leaves_nothing(parts: list[Patch]) -> None:
    (a,) = parts
    assert same_content(exclude_patches(a), a)
    assert same_content(exclude_patches(a, Mask.of({}, {})), a)
    with pytest.raises(BudgetError, match="nothing is left of 1"):
        exclude_patches(a, a)


@QUIET
@given(patches(2), st.sampled_from(["first", "last", "mean", "sign", "slerp"]))
def test_a_composition_less_all_of_its_parts_is_nothing_whatever_the_rule(parts: list[Patch], rule: str) -> None:
    whole = compose_patches(*parts, on_overlap=rule)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="nothing is left"):
        exclude_patches(whole, *parts)


@QUIET
@given(patches(2))
def test_what_stays_is_the_difference_of_masks_with_its_values(parts: list[Patch]) -> None:
    first, *others = parts
    kept = first.mask
    for other in others:
        kept = kept - other.mask
    if not len(kept):
        with pytest.raises(BudgetError, match="nothing is left of 1: every entry lies in 2"):
            exclude_patches(first, *others)
        return
    rest = exclude_patches(first, *others)
    assert rest.mask == kept
    for name in kept:
        at = torch.tensor(kept[name])
        order = {int(i): j for j, i in enumerate(first.mask[name])}
        assert same_bits(rest.values[name], first.values[name][[order[int(i)] for i in at]])
        assert rest.base_values is not None
        assert same_bits(rest.base_values[name], BASE[name].view(-1)[at])
    method = rest.provenance.method
    assert method["removed"] == len(first) - len(rest)
    assert [part["shared"] for part in method["without"]] == [len(first.mask & other.mask) for other in others]
    assert same_content(exclude_patches(first, *reversed(others)), rest)  # in any order
    assert same_content(exclude_patches(rest, *others), rest)  # and once is enough


@QUIET
@given(patches(2, 2), st.sampled_from(["first", "last", "mean", "sign", "slerp"]))
def test_two_patches_fall_apart_into_three_disjoint_ones(parts: list[Patch], rule: str) -> None:
    a, b = parts
    if not len(a.mask - b.mask) or not len(b.mask - a.mask):
        return
    whole = compose_patches(a, b, on_overlap=rule)  # type: ignore[arg-type]
    assert same_content(exclude_patches(whole, b), exclude_patches(a, b))
    assert same_content(exclude_patches(whole, a), exclude_patches(b, a))


WHOLE = {("layers.0.w", 1): 5.0, ("layers.0.w", 2): 6.0, ("head.b", 0): 1.0}
PART = {("layers.0.w", 1): 9.0}


def test_files_and_the_base_give_the_same(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", BASE)
    for name, changes in (("whole", WHOLE), ("part", PART)):
        save_patch(patch_of(changes, stored=False), tmp_path / name)
    with pytest.raises(PatchError, match=r"'layers.0.w': the base's values are needed .* give --base MODEL \(base\)"):
        exclude_patches(tmp_path / "whole", tmp_path / "part")
    rest = exclude_patches(tmp_path / "whole", tmp_path / "part", base=base)
    assert rest.base_hashes == exclude_patches(patch_of(WHOLE), patch_of(PART)).base_hashes
    save_patch(rest, tmp_path / "rest")
    assert same_content(load_patch(tmp_path / "rest"), rest)
    assert rest.provenance.method["without"][0]["name"] == "part"
    wrong = write_single(tmp_path / "wrong", {name: tensor + 1 for name, tensor in BASE.items()})
    with pytest.raises(PatchMismatchError, match="whole does not fit"):
        exclude_patches(tmp_path / "whole", tmp_path / "part", base=wrong)


def test_a_whole_tensor_that_another_brings_goes_too() -> None:
    heads = {"a.cls": torch.ones(1), "b.cls": torch.zeros(2)}
    a, b = (
        make_patch(BASE, {"head.b": {i: 1.0}}, with_base_values=True, dense={name: heads[name]})
        for i, name in enumerate(heads)
    )
    both = compose_patches(a, b)
    assert set(both.dense) == set(heads)
    rest = exclude_patches(both, b)
    assert same_content(rest, a)
    assert rest.provenance.method["whole"] == ["b.cls"]


BODY = {"layers.0.w": {1: 5.0, 2: 6.0}}
CLASSIFIER = {"cls.weight": torch.zeros(2, 4), "cls.bias": torch.zeros(2)}
WITH_HEAD = BASE | CLASSIFIER


def heads() -> tuple[Patch, Patch, Patch]:
    """A head changed in part, one that comes whole with other outputs, and its region alone."""
    part = make_patch(WITH_HEAD, BODY | {"cls.weight": {0: 1.0, 3: 2.0}, "cls.bias": {1: 3.0}}, with_base_values=True)
    dense = {"cls.weight": torch.ones(3, 4), "cls.bias": torch.ones(3)}
    whole = make_patch(WITH_HEAD, {"layers.0.w": {2: 7.0, 3: 8.0}}, with_base_values=True, dense=dense)
    return part, whole, make_patch(WITH_HEAD, {"layers.0.w": {3: 8.0}}, with_base_values=True, dense=dense)


def test_of_a_module_that_another_brings_whole_no_entry_stays() -> None:
    part, whole, _ = heads()
    rest = exclude_patches(part, whole)
    assert {name: rest.mask[name].tolist() for name in rest.mask} == {"layers.0.w": [1]}
    method = rest.provenance.method
    assert (method["removed"], method["torn"], method["whole"]) == (4, 3, [])
    assert method["without"][0]["shared"] == 4
    assert compose_patches(rest, whole).k == 3  # needs no rule, and neither does the other way round
    again = exclude_patches(part, whole.mask)  # the coordinates alone bring nothing whole
    assert (len(again), again.provenance.method["torn"]) == (4, 0)


def test_a_whole_tensor_goes_with_all_of_its_module_where_another_has_entries_in_it() -> None:
    part, whole, alone = heads()
    rest = exclude_patches(whole, part)
    assert (rest.dense, {name: rest.mask[name].tolist() for name in rest.mask}) == ({}, {"layers.0.w": [3]})
    method = rest.provenance.method
    assert (method["removed"], method["torn"], method["whole"]) == (1, 0, ["cls.bias", "cls.weight"])
    assert compose_patches(rest, part).k == 6
    assert same_content(exclude_patches(whole, make_patch(WITH_HEAD, {"layers.0.w": {2: 1.0}})), alone)


def test_regions_with_the_names_of_another_class_are_placed_by_the_base_or_refused(tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base")
    name = "encoder.layer.0.output.dense.weight"
    weight = dict(encoder.named_parameters())[name]
    tensors = {name: weight.detach()}
    prefixed = Mask.of({f"bert.{name}": spec_of(weight)}, {f"bert.{name}": np.arange(3, 9)})
    patch = make_patch(tensors, {name: dict.fromkeys(range(8), 1.0)}, with_base_values=True)
    plain = Mask.of({name: spec_of(weight)}, {name: np.arange(3, 9)})
    wanted = exclude_patches(patch, plain)
    assert (len(wanted), measure_overlap(patch, plain).pairs[0].intersection) == (3, 5)
    assert same_content(exclude_patches(patch, prefixed, base=base), wanted)
    assert measure_overlap(patch, prefixed, base=base).pairs[0] == measure_overlap(patch, plain, base=base).pairs[0]
    for operate in (exclude_patches, measure_overlap):
        with pytest.raises(PatchMismatchError, match=rf"'{name}' and 2 'bert\.{name}', which may be one: give --base"):
            operate(patch, prefixed)
    live = dataclasses.replace(patch, mask=Mask.of({f"bert.{name}": spec_of(weight)}, {f"bert.{name}": np.arange(8)}),
                               **{key: {f"bert.{name}": getattr(patch, key)[name]}
                                  for key in ("values", "base_hashes", "base_values")})  # fmt: skip
    assert list(exclude_patches(live, plain, base=base).mask) == [f"bert.{name}"]  # a patch keeps its own names
    assert len(exclude_patches(live, plain, base=base)) == 3
    with pytest.raises(PatchMismatchError, match="which may be one: give --base"):
        compose_patches(patch, live)  # both would change the one tensor
    assert compose_patches(patch, live, base=base).mask == patch.mask


def test_two_tensors_of_one_base_whose_names_differ_by_a_prefix_are_told_by_a_patch_or_the_base(tmp_path: Path) -> None:
    tensors = {"layers.0.w": torch.zeros(4), "left.layers.0.w": torch.ones(4)}
    first, second = (make_patch(tensors, {name: {0: 5.0}}, with_base_values=True) for name in tensors)
    with pytest.raises(PatchMismatchError, match="which may be one"):
        exclude_patches(first, second)
    of_one_base = dataclasses.replace(first.provenance.base, digest="0" * 64)
    origin = dataclasses.replace(first.provenance, base=of_one_base)
    named = [dataclasses.replace(patch, provenance=origin) for patch in (first, second)]
    assert compose_patches(*named).k == 2  # of one base, whose names are one set
    assert same_content(exclude_patches(first, second, base=write_single(tmp_path / "base", tensors)), first)
    both = make_patch(tensors, {name: {1: 5.0} for name in tensors}, with_base_values=True)
    assert same_content(exclude_patches(first, both), first)
