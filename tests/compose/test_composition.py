"""Composition is a union: its algebra, its rules, and what its provenance counts."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.compose.composition import compose_patches
from graft.errors import OverlapError, PatchError, PatchMismatchError
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.patch.overlap_rules import OverlapRule
from graft.patch.registry import OVERLAP_RULES
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import bits_of, equal_tensors, make_patch, model_of, write_single
from tests.compose.patches import (
    BASE,
    ORIGIN,
    PLACES,
    applied,
    disjoint_patches,
    held_by,
    patch_of,
    patches,
    same_content,
)

QUIET = settings(derandomize=True, deadline=None, max_examples=60)
BLENDS = [rule for rule in OVERLAP_RULES if rule != "error"]


def overlap_of(patch: Patch) -> dict[str, Any]:
    overlap: dict[str, Any] = patch.provenance.method["overlap"]
    return overlap


@QUIET
@given(disjoint_patches(3))
def test_disjoint_patches_commute_and_associate(parts: list[Patch]) -> None:
    a, b, c = parts
    whole = compose_patches(a, b, c)
    for order in itertools.permutations(parts):
        assert same_content(compose_patches(*order), whole)
    assert same_content(compose_patches(compose_patches(a, b), c), whole)
    assert same_content(compose_patches(a, compose_patches(b, c)), whole)
    assert overlap_of(whole)["shared"] == 0
    assert len(whole) == len(a) + len(b) + len(c)


@QUIET
@given(patches(1, 1), st.sampled_from(list(OVERLAP_RULES)))
def test_a_patch_composed_with_itself_or_alone_is_itself(parts: list[Patch], rule: OverlapRule) -> None:
    assert same_content(compose_patches(parts[0], on_overlap=rule), parts[0])
    doubled = compose_patches(*parts * 3, on_overlap=rule)
    assert same_content(doubled, parts[0])
    assert overlap_of(doubled)["shared"] == len(parts[0])
    assert overlap_of(doubled)["differing"] == 0


@QUIET
@given(patches(2), st.sampled_from(list(OVERLAP_RULES)))
def test_every_shared_coordinate_is_counted(parts: list[Patch], rule: OverlapRule) -> None:
    held = held_by([part.mask for part in parts])
    tuned = [applied(part) for part in parts]
    wants = {place: {repr(tuned[i][place[0]].view(-1)[place[1]].item()) for i in who} for place, who in held.items()}
    differing = sum(len(values) > 1 for values in wants.values())
    if rule == "error" and differing:
        with pytest.raises(OverlapError, match=r"two patches want different values"):
            compose_patches(*parts, on_overlap=rule)
        return
    whole = compose_patches(*parts, on_overlap=rule)
    overlap = overlap_of(whole)
    assert set(held_by([whole.mask])) == set(held)  # nothing is dropped, nothing added
    assert overlap["rule"] == rule
    assert overlap["shared"] == sum(len(who) > 1 for who in held.values())
    assert overlap["differing"] == differing
    for pair in overlap["pairs"]:
        i, j = (int(pair[key].strip(" ()")) - 1 for key in "ab")
        assert pair["shared"] == sum(i in who and j in who for who in held.values()) > 0
    assert sum(pair["shared"] for pair in overlap["pairs"]) == sum(
        len(who) * (len(who) - 1) // 2 for who in held.values()
    )
    touched = {f"{i + 1}": sum(i in who and len(who) > 1 for who in held.values()) for i in range(len(parts))}
    assert overlap["with_others"] == {label: count for label, count in touched.items() if count}


@QUIET
@given(patches(2), st.sampled_from(BLENDS))
def test_every_rule_is_deterministic_and_the_file_comes_back(parts: list[Patch], rule: OverlapRule) -> None:
    once, again = (compose_patches(*parts, on_overlap=rule) for _ in range(2))
    assert patch_bytes(once) == patch_bytes(again)
    if rule in ("mean", "sign"):
        assert same_content(compose_patches(*reversed(parts), on_overlap=rule), once)
    last_first = compose_patches(*reversed(parts), on_overlap="last")
    assert same_content(compose_patches(*parts, on_overlap="first"), last_first)


def test_first_and_last_are_what_applying_in_turn_gives() -> None:
    a, b = patch_of({("layers.0.w", 3): 5.0, ("head.b", 0): 1.0}), patch_of({("layers.0.w", 3): 6.0})
    in_turn = applied(b, applied(a))
    assert equal_tensors(applied(compose_patches(a, b, on_overlap="last")), in_turn)
    assert not equal_tensors(applied(compose_patches(a, b, on_overlap="first")), in_turn)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_single(tmp_path / "base", BASE)


A = {("layers.0.w", 1): 5.0, ("layers.0.w", 7): -1.0, ("layers.1.w", 2): 3.0}
B = {("layers.0.w", 7): 4.0, ("layers.0.w", 9): 2.0, ("layers.1.w", 2): -3.0, ("head.b", 3): 1.0}
C = {("layers.0.w", 7): 3.0, ("layers.1.w", 0): 2.0, ("layers.1.w", 2): 3.0}


@pytest.mark.parametrize("rule", BLENDS)
def test_composing_then_applying_is_applying_all_under_the_rule(rule: OverlapRule, base: Path, tmp_path: Path) -> None:
    checkpoint, parts = Checkpoint.open(base), [patch_of(changes, stored=False) for changes in (A, B, C)]
    merge_patches(checkpoint, parts, tmp_path / "all", on_overlap=rule)
    merge_patches(checkpoint, [compose_patches(*parts, on_overlap=rule, base=base)], tmp_path / "one")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("all", "one")]
    assert files[0] == files[1] != (base / "model.safetensors").read_bytes()
    model = model_of({name: tensor.clone() for name, tensor in BASE.items()})
    before, merged = bits_of(model), Checkpoint.open(tmp_path / "one")
    with apply_patch(model, *parts, on_overlap=rule):
        assert bits_of(model) == bits_of({name: merged.read(name) for name in merged.names})
    assert bits_of(model) == before


@pytest.mark.parametrize("rule", BLENDS)
def test_files_stored_values_and_the_base_itself_give_the_same(rule: OverlapRule, base: Path, tmp_path: Path) -> None:
    for name, changes in (("a", A), ("b", B)):
        save_patch(patch_of(changes), tmp_path / name)
        save_patch(patch_of(changes, stored=False), tmp_path / f"{name}-bare")
    stored = compose_patches(tmp_path / "a", tmp_path / "b", on_overlap=rule)
    bare = compose_patches(tmp_path / "a-bare", tmp_path / "b-bare", on_overlap=rule, base=base, with_base_values=True)
    assert same_content(stored, bare)
    assert same_content(compose_patches(patch_of(A), patch_of(B), on_overlap=rule), stored)
    assert compose_patches(tmp_path / "a-bare", tmp_path / "b", on_overlap=rule, base=base).base_values is None
    save_patch(stored, tmp_path / "both")
    assert same_content(load_patch(tmp_path / "both"), stored)


@QUIET
@given(disjoint_patches(2, stored=False))
def test_without_base_values_a_tensor_that_two_touch_asks_for_them(parts: list[Patch]) -> None:
    if set(parts[0].mask) & set(parts[1].mask):
        with pytest.raises(PatchError, match=r"give --base MODEL \(base\), or cut the patches --with-base-values"):
            compose_patches(*parts)
    else:
        assert len(compose_patches(*parts)) == len(parts[0]) + len(parts[1])


def test_a_print_serves_where_one_part_has_all_entries() -> None:
    small = patch_of({("layers.0.w", 1): 5.0}, stored=False)
    whole = compose_patches(patch_of(A, stored=False), small)
    assert same_content(whole, patch_of(A, stored=False))


def test_sign_gives_back_to_the_base_what_cancels_and_counts_it() -> None:
    b = BASE["layers.0.w"].view(-1)[11].item()  # 1.0
    whole = compose_patches(
        patch_of({("layers.0.w", 11): b + 2}), patch_of({("layers.0.w", 11): b - 2}), on_overlap="sign"
    )
    assert whole.values["layers.0.w"].tolist() == [b]
    assert overlap_of(whole)["cancelled"] == 1


HEADS = [{"cls": torch.tensor([float(i)])} for i in range(2)]


def test_whole_tensors_are_chosen_never_blended() -> None:
    one, two = (make_patch(BASE, {"head.b": {i: 1.0}}, with_base_values=True, dense=HEADS[i]) for i in range(2))
    assert compose_patches(one, one).dense["cls"].tolist() == [0.0]
    for rule, kept in (("first", 0.0), ("last", 1.0)):
        whole = compose_patches(one, two, on_overlap=rule)  # type: ignore[arg-type]
        assert whole.dense["cls"].tolist() == [kept]
        assert overlap_of(whole)["whole"] == ["cls"]
    for rule in ("error", "mean", "sign", "slerp"):
        with pytest.raises(OverlapError, match=r"whole tensor 'cls'; choose --on-overlap first or last"):
            compose_patches(one, two, on_overlap=rule)  # type: ignore[arg-type]


def test_the_origin_of_every_part_is_told_also_of_parts_that_were_composed() -> None:
    inner = compose_patches(patch_of(A), patch_of(B), on_overlap="mean", labels=["a", "b"])
    outer = compose_patches(inner, patch_of(C), on_overlap="last", labels=["ab", "c"])
    method = outer.provenance.method
    assert [(part["name"], part["k"]) for part in method["of"]] == [("ab", 5), ("c", 3)]
    assert method["earlier"] == [{"name": "ab", "rule": "mean", "shared": 2, "differing": 2, "cancelled": 0}]
    assert method["overlap"]["pairs"] == [{"a": "ab", "b": "c", "shared": 2}]
    assert (outer.provenance.base, outer.provenance.scope) == (ORIGIN.base, "all")
    deep = outer
    for _ in range(40):  # nesting does not deepen the file's JSON, whose depth readers limit
        deep = compose_patches(deep, patch_of(C), on_overlap="last")
    assert len(patch_bytes(deep)) < 20_000


@pytest.mark.parametrize(("lengths", "kept"), [((64, 64), 64), ((64, 128), None), ((64, None), None)])
def test_one_task_stays_it_whatever_length_its_texts_had(lengths: tuple[int | None, ...], kept: int | None) -> None:
    """A patch of an earlier version does not say how long its inputs were."""
    task = {"name": "toy", "labels": ["no", "yes"]}
    parts = []
    for i, length in enumerate(lengths):
        own = task | ({} if length is None else {"max_length": length})
        patch = patch_of({PLACES[i]: 7.5})
        parts.append(dataclasses.replace(patch, provenance=dataclasses.replace(ORIGIN, task=own)))
    assert compose_patches(*parts).provenance.task == task | ({} if kept is None else {"max_length": kept})
    other = dataclasses.replace(parts[1], provenance=dataclasses.replace(ORIGIN, task=task | {"name": "other"}))
    assert compose_patches(parts[0], other).provenance.task is None


def test_a_wrong_base_is_refused(tmp_path: Path, base: Path) -> None:
    wrong = write_single(tmp_path / "wrong", {name: tensor + 1 for name, tensor in BASE.items()})
    parts = [patch_of(A), patch_of(B)]
    assert len(compose_patches(*parts, on_overlap="first", base=base)) == 5
    with pytest.raises(PatchMismatchError, match=r"2 does not fit .*wrong: tensor 'head.b': the values at"):
        compose_patches(*parts, on_overlap="first", base=wrong)
