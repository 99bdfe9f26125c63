"""Apply then revert leaves every tensor bitwise as it was (design, guarantees 1 and 2)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError, PatchMismatchError, RevertError
from graft.patch.live import apply_patch, prepare_patch
from graft.patch.live_tensors import LiveEntries
from graft.patch.module_identity import ModuleIdentity
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import to_bytes
from tests.checkpoints import (
    Tensors,
    bits_of,
    cut,
    make_patch,
    model_of,
    nudged,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]


def weights(dtype: torch.dtype = torch.float32) -> Any:
    base = torch.arange(24.0).reshape(4, 6)
    return model_of({"a": base.to(dtype), "b": (-base).to(dtype), "s": torch.tensor(2.0).to(dtype)})


def patch_for(model: torch.nn.Module, changes: dict[str, dict[int, float]], **options: Any) -> Patch:
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    return make_patch({name: tensor.detach() for name, tensor in tensors.items()}, changes, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_assigns_and_revert_restores_every_bit(dtype: torch.dtype) -> None:
    model = weights(dtype)
    with torch.no_grad():  # beside the mask anything may lie
        model.a.view(-1)[20:] = torch.tensor([-0.0, float("nan"), 0.0, 1.0]).to(dtype)
    before = bits_of(model)
    grafted = apply_patch(model, patch_for(model, {"a": {0: -0.0, 7: 0.5, 20: 0.0}, "s": {0: 3.0}}))
    assert grafted.k == 4
    assert model.a.flatten()[[0, 7, 20]].tolist() == [0, 0.5, 0]
    assert model.a.flatten()[:1].float().signbit().item()
    assert model.s.item() == 3.0
    after = bits_of(model)
    assert after["b"] == before["b"]
    assert after["a"][8 * dtype.itemsize : 20 * dtype.itemsize] == before["a"][8 * dtype.itemsize : 20 * dtype.itemsize]
    grafted.revert()
    assert bits_of(model) == before


SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@settings(derandomize=True, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([*DTYPES, torch.int64]))
def test_any_model_and_any_mask(data: st.DataObject, dtype: torch.dtype) -> None:
    tensors: Tensors = {}
    for name in ("a", "b", "c"):
        tensor = torch.randint(-9, 9, data.draw(SHAPES), generator=torch.Generator().manual_seed(1)).to(dtype)
        tensors[name] = tensor.mT.contiguous().mT if tensor.dim() > 1 and data.draw(st.booleans()) else tensor
    model = model_of(tensors)
    changes = {}
    for name in data.draw(st.sets(st.sampled_from("abc"), min_size=1)):
        chosen = data.draw(st.sets(st.integers(0, tensors[name].numel() - 1), min_size=1))
        changes[name] = {i: float(data.draw(st.integers(-9, 9))) for i in chosen}
    before = bits_of(model)
    patch = patch_for(model, changes)
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    for name in patch.mask:
        rows = expected[name].flatten()
        rows[torch.tensor(patch.mask[name])] = patch.values[name]
        expected[name] = rows.reshape(tensors[name].shape)
    with apply_patch(model, patch):
        assert bits_of(model) == bits_of(expected)
    assert bits_of(model) == before


def test_tied_weights_are_written_once_and_seen_under_both_names() -> None:
    model = small_llama(tied=True)
    before = bits_of(model)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        with apply_patch(model, patch_for(model, {name: {5: 9.0}})):
            assert model.lm_head.weight is model.model.embed_tokens.weight
            assert model.lm_head.weight.flatten()[5] == 9.0
        assert bits_of(model) == before


def test_one_storage_under_two_names_is_restored_exactly() -> None:
    model = weights()
    model.b = torch.nn.Parameter(model.a.detach())  # another Parameter, the same storage
    before = bits_of(model)
    both = patch_for(model, {"a": {0: 9.0, 1: 5.0}, "b": {0: 9.0, 2: 6.0}})
    with apply_patch(model, both):
        assert model.a.flatten()[:3].tolist() == [9.0, 5.0, 6.0]
    assert bits_of(model) == before


def test_stacked_disjoint_grafts_come_off_in_any_order() -> None:
    model = weights()
    before = bits_of(model)
    patches = [patch_for(model, {"a": {i: 70.0 + i, 6 + i: 80.0 + i}, "b": {i: 1.5}}) for i in range(3)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        grafts = [apply_patch(model, patch) for patch in patches]
        for position in order:
            grafts[position].revert()
        assert bits_of(model) == before
    with apply_patch(model, *patches) as grafted:
        assert grafted.k == 9
    assert bits_of(model) == before


def test_an_exception_inside_the_block_restores_too() -> None:
    model = weights()
    before = bits_of(model)
    with pytest.raises(ZeroDivisionError), apply_patch(model, patch_for(model, {"a": {1: 9.0}})):
        1 / int(bits_of(model) == before)
    assert bits_of(model) == before


def test_a_revert_inside_the_block_is_enough_and_a_second_is_refused() -> None:
    model = weights()
    with apply_patch(model, patch_for(model, {"a": {1: 9.0}})) as grafted:
        grafted.revert()
    with pytest.raises(RevertError, match="already"):
        grafted.revert()


def test_an_overlap_comes_off_latest_first_only() -> None:
    model = weights()
    before = bits_of(model)
    first = apply_patch(model, patch_for(model, {"a": {1: 9.0, 2: 9.0}}))
    between = bits_of(model)
    second = apply_patch(model, patch_for(weights(), {"a": {2: 5.0, 3: 5.0}}), allow_mismatch=True)
    with pytest.raises(RevertError, match="later graft"):
        first.revert()
    assert model.a.flatten()[1:4].tolist() == [9.0, 5.0, 5.0]
    second.revert()
    assert bits_of(model) == between
    first.revert()
    assert bits_of(model) == before


@pytest.mark.parametrize("value", [5.0, 9.0], ids=["other bits", "the same bits"])
def test_a_later_graft_blocks_also_when_its_handle_is_gone(value: float) -> None:
    model = weights()
    before = bits_of(model)
    first = apply_patch(model, patch_for(model, {"a": {1: 9.0}}))
    aside = apply_patch(model, patch_for(model, {"a": {2: 3.0}}))
    apply_patch(model, patch_for(weights(), {"a": {1: value, 3: 5.0}}), allow_mismatch=True)  # its handle is gone
    aside.revert()  # disjoint
    with pytest.raises(RevertError, match="a later graft, whose handle is gone, wrote to the same coordinates"):
        first.revert()
    assert model.a.flatten()[:4].tolist() == [0.0, value, 2.0, 5.0]
    first.revert(overwrite=True)
    assert model.a.flatten()[:4].tolist() == [0.0, 1.0, 2.0, 5.0]
    with apply_patch(model, patch_for(model, {"a": {3: 7.0}})):
        pass
    assert bits_of(model)["b"] == before["b"]


def test_revert_refuses_a_model_that_was_cast_or_got_other_tensors() -> None:
    model: Any = model_of({"a": torch.arange(4.0), "b": torch.arange(4.0), "n": torch.arange(4)})
    grafted = apply_patch(model, patch_for(model, {"a": {1: 9.0}, "b": {0: 7.0}, "n": {2: 7}}))
    model.b.data = model.b.data.half()
    with pytest.raises(RevertError, match=r"cast from torch\.float32 to torch\.float16"):
        grafted.revert()
    assert model.a.tolist() == [0, 9, 2, 3]  # nothing was restored
    model.b.data = model.b.data.float()
    model.n = model.n.clone()
    with pytest.raises(RevertError, match="'n' was replaced"):
        grafted.revert()
    assert model.a.tolist() == [0, 9, 2, 3]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_failure_amid_writing_is_undone(fault: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    model = weights()
    model.b = torch.nn.Parameter(model.b.detach().double())  # of another width, written after the rest
    before = bits_of(model)
    write, calls = LiveEntries.write, []

    def failing(entries: LiveEntries, content: torch.Tensor) -> None:
        calls.append(entries)
        write(entries, content)
        if len(calls) == 2:
            raise fault

    patch = patch_for(model, {"a": {1: 9.0}, "b": {2: 9.0}})
    with monkeypatch.context() as patched:
        patched.setattr(LiveEntries, "write", failing)
        with pytest.raises(fault):
            apply_patch(model, patch)
    assert len(calls) == 4  # two written, two undone
    assert bits_of(model) == before
    with apply_patch(model, patch):
        assert bits_of(model) != before


def test_whole_tensors_are_replaced_and_restored() -> None:
    model = weights()
    before = bits_of(model)
    tensor = torch.full((4, 6), -0.0)
    patch = patch_for(model, {"a": {1: 9.0}}, dense={"b": tensor})
    with apply_patch(model, patch) as grafted:
        assert grafted.k == 1
        assert bits_of(model)["b"] == to_bytes(tensor)
    assert bits_of(model) == before
    entries = patch_for(model, {"b": {1: 9.0}})
    with apply_patch(model, entries, patch, on_overlap="last"):  # both for one tensor
        assert bits_of(model)["b"] == to_bytes(tensor)
    assert bits_of(model) == before
    del model.b
    with pytest.raises(CheckpointError, match=r"'b'.*Module lacks"):
        apply_patch(model, patch)
    assert model.a.flatten()[1] == 1.0


def test_many_whole_tensors_are_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of each by itself, against the links to all of them, would take the square of their number."""
    tensors = {f"t{i}": torch.full((2,), float(i)) for i in range(9)}
    model = model_of({name: tensor.clone() for name, tensor in tensors.items()})
    patch = patch_for(model, {"t0": {1: 9.0}}, dense={name: tensors[name] + 1 for name in list(tensors)[1:]})
    checked: list[int] = []
    lost = ModuleIdentity.lost

    def count(self: ModuleIdentity, tensors: Tensors) -> str | None:
        checked.append(len(tensors))
        return lost(self, tensors)

    monkeypatch.setattr(ModuleIdentity, "lost", count)
    prepared = prepare_patch(model, patch)
    prepared.apply().revert()
    assert checked == [9, 9]
    model.t5 = torch.nn.Parameter(tensors["t5"].clone())
    with pytest.raises(PatchMismatchError, match=r"'t5'.*replaced since"):
        prepared.apply()


def test_an_encoder_patch_lands_on_a_classifier_and_on_wrapped_models(tmp_path: Path) -> None:
    base, tuned = small_bert(), nudged(small_bert())
    patch = cut(save_model(base, tmp_path / "base"), save_model(tuned, tmp_path / "tuned"))
    classifier = small_classifier(base)
    wrapped = torch.nn.DataParallel(copy.deepcopy(classifier))
    compiled = torch.nn.Module()
    compiled._orig_mod = copy.deepcopy(base)
    for model in (base, classifier, wrapped, compiled):
        before = bits_of(model)
        with apply_patch(model, patch) as grafted:
            assert grafted.k == len(patch)
            after = bits_of(model)
            inner = [name for name in after if name.endswith("layer.1.output.dense.weight")]
            assert [after[name] for name in inner] == [to_bytes(tuned.encoder.layer[1].output.dense.weight)]
        assert bits_of(model) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graft_comes_off_after_the_model_moved_between_devices() -> None:
    model = weights()
    before = bits_of(model)
    first = apply_patch(model, patch_for(model, {"a": {1: 9.0}}))
    model.cuda()
    second = apply_patch(model, patch_for(model, {"b": {1: 9.0}}))
    first.revert()
    second.revert()
    assert bits_of(model.cpu()) == before
