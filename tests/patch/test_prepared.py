"""A prepared patch goes on and off as often as one likes, exactly, while the model is what it was prepared for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import PatchMismatchError, RevertError
from graft.patch.live import apply_patch, prepare_patch
from tests.checkpoints import Tensors, bits_of, make_patch, model_of, nudged, small_llama

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64]


def tensors() -> Tensors:
    return {"a": torch.linspace(0, 1, 12).reshape(3, 4), "m.b": torch.linspace(1, 2, 5).bfloat16()}


def fresh() -> Any:
    return model_of(tensors())


PATCH = make_patch(tensors(), {"a": {1: 9.0, 7: -0.0}, "m.b": {2: 9.0}})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_any_number_of_times_on_any_model_it_is_what_applying_once_is(data: st.DataObject) -> None:
    base: Tensors = {}
    for name in ("a", "m.b", "m.n.c"):
        shape = data.draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
        tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(data.draw(st.sampled_from(DTYPES)))
        base[name] = tensor.mT.contiguous().mT if tensor.dim() > 1 and data.draw(st.booleans()) else tensor
    chosen = {name: data.draw(st.sets(st.integers(0, tensor.numel() - 1))) for name, tensor in base.items()}
    changes = {
        name: {i: float(data.draw(st.integers(-9, 9))) for i in indices} for name, indices in chosen.items() if indices
    }
    if not changes:
        return
    model, patch = model_of(base), make_patch(base, changes)
    before = bits_of(model)
    with apply_patch(model, patch):
        expected = bits_of(model)
    prepared = prepare_patch(model, patch)
    assert bits_of(model) == before  # fitting writes nothing
    for _ in range(3):
        with prepared.apply() as grafted:
            assert grafted.k == len(patch)
            assert bits_of(model) == expected
        assert bits_of(model) == before


def refuse(prepared: Any, model: torch.nn.Module, match: str) -> None:
    before = bits_of(model)
    with pytest.raises(PatchMismatchError, match=match):
        prepared.apply()
    assert bits_of(model) == before


def test_a_model_that_was_changed_since_is_refused_and_nothing_is_written() -> None:
    model = fresh()
    prepared = prepare_patch(model, PATCH)
    with torch.no_grad():
        model.a[0, 0] += 1  # beside the mask anything may happen
    prepared.apply().revert()
    with torch.no_grad():
        model.m.b[2] += 0.5
    refuse(prepared, model, r"Module now: tensor 'm\.b': its values are not those that the patch was prepared for")
    with torch.no_grad():
        model.m.b[2] -= 0.5
        model.a.view(-1)[1] *= -1
    refuse(prepared, model, "tensor 'a': its values")
    prepare_patch(model, PATCH, allow_mismatch=True).apply().revert()


def test_a_graft_in_force_is_not_put_on_twice() -> None:
    model = fresh()
    prepared = prepare_patch(model, PATCH)
    with prepared.apply():
        refuse(prepared, model, "tensor 'a'")
    prepared.apply().revert()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: setattr(model.a, "data", model.a.data.clone()),
        lambda model: setattr(model.a, "data", model.a.data.mT.contiguous().mT),
        lambda model: setattr(model, "a", torch.nn.Parameter(model.a.detach())),
        lambda model: setattr(model, "m", model_of({"b": model.m.b.detach()})),
    ],
    ids=["cast", "moved", "laid out anew", "tensor replaced", "module replaced"],
)
def test_a_model_that_was_cast_moved_or_got_other_tensors_is_refused(change: Any) -> None:
    model = fresh()
    prepared = prepare_patch(model, PATCH)
    prepared.apply().revert()
    change(model)
    refuse(prepared, model, r"tensor '(a|m\.b)': it was cast, moved or replaced .*: prepare it again")


def test_a_graft_comes_off_where_memory_was_moved_or_a_module_was_wrapped() -> None:
    model = fresh()
    before = bits_of(model)
    grafted = prepare_patch(model, PATCH).apply()
    model.a.data = model.a.data.mT.contiguous().mT
    model.m = torch.nn.Sequential(model.m)
    grafted.revert()
    model.m = model.m[0]
    assert bits_of(model) == before


def test_disjoint_fits_come_and_go_in_any_order_and_an_overlap_is_seen_through_views_of_one_storage() -> None:
    model = fresh()
    model.t = torch.nn.Parameter(model.a.detach().t())  # the same memory in another order
    before = bits_of(model)
    both = {"a": model.a.detach(), "t": model.t.detach()}
    one, other = (prepare_patch(model, make_patch(both, change)) for change in ({"a": {1: 9.0}}, {"t": {1: 8.0}}))
    for _ in range(2):
        first, second = one.apply(), other.apply()
        first.revert()
        second.revert()
        assert bits_of(model) == before
    first = one.apply()
    second = apply_patch(model, make_patch(both, {"t": {3: 7.0}}))  # row 1, column 0 of t: entry 1 of a
    with pytest.raises(RevertError, match="later graft"):
        first.revert()
    second.revert()
    first.revert()
    assert bits_of(model) == before


def test_tied_weights_and_whole_tensors_come_and_go() -> None:
    model = small_llama(tied=True)
    state = {name: tensor.detach().clone() for name, tensor in model.named_parameters(remove_duplicate=False)}
    norm = nudged(model).model.norm.weight.detach()
    prepared = prepare_patch(model, make_patch(state, {"lm_head.weight": {5: 9.0}}, dense={"model.norm.weight": norm}))
    before = bits_of(model)
    for _ in range(2):
        with prepared.apply():
            assert model.model.embed_tokens.weight.flatten()[5] == 9.0
            assert torch.equal(model.model.norm.weight, norm)
        assert bits_of(model) == before


def test_a_forgotten_fit_holds_no_memory_yet_its_graft_comes_off() -> None:
    model = fresh()
    before = bits_of(model)
    prepared = prepare_patch(model, PATCH)
    grafted = prepared.apply()
    prepared.forget()
    grafted.revert()
    assert bits_of(model) == before
    refuse(prepared, model, "prepare it again")
