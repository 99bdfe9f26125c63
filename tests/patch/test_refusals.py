"""A patch lands only where it fits, all or nothing: every check runs before the first write."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import CheckpointError, ConfigError, OverlapError, PatchMismatchError
from graft.patch.compatibility import check_compatible, check_digest
from graft.patch.live import LiveTarget, apply_patch
from graft.patch.merge import StoredTarget
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.train.protection.guard import protect
from tests.checkpoints import (
    Tensors,
    bits_of,
    cut,
    make_patch,
    model_of,
    nudged,
    sample_tensors,
    save_model,
    small_llama,
    write_single,
)


def tensors(dtype: torch.dtype = torch.float32) -> Tensors:
    return {"a": torch.linspace(0, 1, 12).reshape(3, 4).to(dtype), "b": torch.linspace(1, 2, 5).to(dtype)}


def fresh(dtype: torch.dtype = torch.float32) -> Any:
    return model_of(tensors(dtype))


GOOD = make_patch(tensors(), {"a": {1: 9.0}, "b": {2: 9.0}}, with_base_values=True)


def refuse(model: torch.nn.Module, *patches: Patch, match: str, error: type[Exception] = PatchMismatchError) -> None:
    before = bits_of(model)
    with pytest.raises(error, match=match):
        apply_patch(model, *patches)
    assert bits_of(model) == before


def test_the_wrong_base_is_refused_by_name_and_reason_before_any_write() -> None:
    model = fresh()
    apply_patch(model, GOOD).revert()
    with torch.no_grad():
        model.b[2] += 1e-6
    refuse(model, GOOD, match=r"Module: tensor 'b': the values at its 1 entries are not the base's$")
    with torch.no_grad():
        model.a += 1
    refuse(model, GOOD, match=r"tensor 'a'.* \(and 1 more\)$")
    with apply_patch(model, GOOD, allow_mismatch=True):
        assert model.b[2] == 9.0


def test_minus_zero_is_another_base_than_zero() -> None:
    model = fresh()
    with torch.no_grad():
        model.a.view(-1)[0] = -0.0
    refuse(model, make_patch(tensors(), {"a": {0: 9.0}}), match="'a'")


def test_one_bad_patch_of_two_and_nothing_is_written() -> None:
    other = make_patch({"a": torch.zeros(3, 4)}, {"a": {5: 9.0}})
    refuse(fresh(), GOOD, other, match="'a'")
    refuse(fresh(), other, GOOD, match="'a'")


def test_names_and_shapes_that_do_not_fit_are_refused_even_with_allow_mismatch() -> None:
    model = fresh()
    model.a = torch.nn.Parameter(model.a.detach().reshape(4, 3))
    refuse(model, GOOD, match=r"'a': shape \[4, 3\], the patch was cut from \[3, 4\]")
    with pytest.raises(PatchMismatchError, match="'a': shape"):
        apply_patch(model, GOOD, allow_mismatch=True)
    del model.a
    refuse(model, GOOD, match="'a': the model has no such tensor")
    refuse(fresh(), make_patch(tensors(), {"a": {1: 9.0}}, dense={"b": torch.zeros(6)}), match=r"'b'.*replaced whole")


def test_a_tied_name_is_found_by_its_sibling() -> None:
    model, base = fresh(), tensors()["a"]
    provenance = Provenance(tied=(("a", "other"),))
    patch = make_patch({"other": base}, {"other": {1: 9.0}}, provenance=provenance)
    with apply_patch(model, patch):
        assert model.a.flatten()[1] == 9.0
    refuse(model, make_patch({"other": base}, {"other": {1: 9.0}}), match="'other': the model has no such tensor")


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'a' is on the meta device"):
        apply_patch(fresh().to("meta"), GOOD)


@pytest.mark.parametrize(
    ("marks", "words"),
    [({"ds_id": 3, "ds_status": 2}, "'a' is partitioned by DeepSpeed ZeRO-3"), ({"_is_flat_param": True}, "by FSDP1")],
)
def test_a_model_in_parts_that_have_no_coordinates_is_refused(marks: dict[str, Any], words: str) -> None:
    model = fresh()
    apply_patch(model, GOOD).revert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    protect(model, optimizer, GOOD).release()
    for name, mark in marks.items():
        setattr(model.a, name, mark)
    model.a.data = torch.empty(0)  # as ZeRO-3 leaves it, the values elsewhere
    refuse(model, GOOD, match=words, error=ConfigError)
    with pytest.raises(ConfigError, match=words):
        protect(model, optimizer, GOOD)
    with pytest.raises(ConfigError, match=words):
        protect(model, optimizer, GOOD.mask)


def test_another_dtype_is_refused_unless_cast() -> None:
    model = fresh(torch.bfloat16)
    before = bits_of(model)
    refuse(model, GOOD, match=r"'a': dtype BF16, the patch was cut from F32 \(load the model in that dtype, or cast\)")
    with apply_patch(model, GOOD, cast=True):
        assert model.b.dtype == torch.bfloat16
        assert model.b[2] == 9.0
    assert bits_of(model) == before
    with pytest.raises(PatchMismatchError, match=r"'a'.*stored base values"):
        apply_patch(model, make_patch(tensors(), {"a": {1: 9.0}}), cast=True)
    with torch.no_grad():
        model.b[2] += 1
    with pytest.raises(PatchMismatchError, match=r"'b'.*not the base's"):
        apply_patch(model, GOOD, cast=True)


def test_an_overlap_conflict_is_refused_and_an_equal_overlap_accepted() -> None:
    one = make_patch(tensors(), {"a": {1: 9.0, 2: 8.0}})
    other = make_patch(tensors(), {"a": {1: 7.0, 3: 6.0}})
    equal = make_patch(tensors(), {"a": {1: 9.0, 3: 6.0}})
    refuse(fresh(), one, other, match=r"'a': two patches want different values .*\(1 shared\)", error=OverlapError)
    model = fresh()
    before = bits_of(model)
    with apply_patch(model, one, equal) as grafted:
        assert grafted.k == 3
        assert model.a.flatten()[1:4].tolist() == [9.0, 8.0, 6.0]
    for rule, value in (("first", 9.0), ("last", 7.0)):
        with apply_patch(model, one, other, on_overlap=rule) as grafted:  # type: ignore[arg-type]
            assert grafted.k == 3
            assert model.a.flatten()[1:4].tolist() == [value, 8.0, 6.0]
    assert bits_of(model) == before


def test_zero_and_minus_zero_are_a_conflict() -> None:
    one, other = (make_patch(tensors(), {"a": {1: value}}) for value in (0.0, -0.0))
    apply_patch(fresh(), one, one).revert()
    refuse(fresh(), one, other, match="'a'", error=OverlapError)


def test_a_conflict_is_seen_through_tied_names() -> None:
    model = small_llama(tied=True)
    state = {name: tensor.detach() for name, tensor in model.named_parameters(remove_duplicate=False)}
    names = ("lm_head.weight", "model.embed_tokens.weight")
    one, other = (make_patch(state, {name: {3: value}}) for name, value in zip(names, (1.0, 2.0), strict=True))
    same = make_patch(state, {names[1]: {3: 1.0}})
    before = bits_of(model)
    with apply_patch(model, one, same) as grafted:
        assert grafted.k == 1
    assert bits_of(model) == before
    refuse(model, one, other, match="two patches want different values", error=OverlapError)


def test_whole_tensors_of_two_patches_conflict_too() -> None:
    one, other = (make_patch(tensors(), {"a": {1: 9.0}}, dense={"b": torch.full((5,), v)}) for v in (1.0, 2.0))
    apply_patch(fresh(), one, one).revert()
    refuse(fresh(), one, other, match="whole tensor 'b'", error=OverlapError)
    model = fresh()
    for rule, value in (("first", 1.0), ("last", 2.0)):
        with apply_patch(model, one, other, on_overlap=rule):  # type: ignore[arg-type]
            assert model.b.tolist() == [value] * 5


def test_an_ambiguous_name_is_refused() -> None:
    model = torch.nn.ModuleDict({"module": fresh(), "_orig_mod": fresh()})
    refuse(model, GOOD, match=r"'a' could be .* ambiguous")


def test_both_kinds_of_target_agree_on_every_fault(tmp_path: Path) -> None:
    base = sample_tensors()
    stored = StoredTarget(Checkpoint.open(write_single(tmp_path / "base", base)))
    patches = [make_patch(base, {"layers.0.w": {i: 9.0}}) for i in range(3)]
    patches.append(make_patch({"layers.0.w": base["layers.0.w"] + 1}, {"layers.0.w": {0: 9.0}}))
    patches.append(make_patch({"layers.0.w": base["layers.0.w"].half()}, {"layers.0.w": {0: 9.0}}))
    patches.append(make_patch({"layers.0.w": base["layers.0.w"].mT.contiguous()}, {"layers.0.w": {0: 9.0}}))
    patches.append(make_patch({"zebra": base["layers.0.w"]}, {"zebra": {0: 9.0}}))
    live = LiveTarget(model_of(base))
    for patch, check_base in itertools.product(patches, (True, False)):
        left, right = (check_compatible(patch, target, check_base=check_base) for target in (stored, live))
        assert left.reasons == right.reasons
        assert left.fits == (patch in patches[: 3 if check_base else 4])


def test_the_digest_sees_what_lies_beside_the_mask(tmp_path: Path) -> None:
    base = small_llama(tied=False)
    folder = save_model(base, tmp_path / "base")
    patch = cut(folder, save_model(nudged(base), tmp_path / "tuned"))
    assert check_digest(patch, Checkpoint.open(folder)) is None
    changed = save_model(nudged(base, share=1e-3, seed=5), tmp_path / "changed")
    assert "digest" in str(check_digest(patch, Checkpoint.open(changed)))
    assert check_digest(GOOD, Checkpoint.open(folder)) == "the patch records no digest of its base"
