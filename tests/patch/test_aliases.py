"""Tensors that share memory are known by the memory; those whose entries have none of their own are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graft
from graft.errors import CheckpointError, OverlapError, RevertError
from graft.patch.aliases import Touch, overlaps_itself
from graft.patch.live import LiveTarget, PreparedPatch, apply_patch
from graft.patch.mask import Mask
from graft.patch.stack import Assignment
from graft.tensors.dtypes import lay_flat, spec_of
from graft.tensors.live_weight import Owners
from tests.checkpoints import bits_of, make_patch, model_of, small_llama


def tied() -> Any:
    """`t` is `a` in another order, `h` the second half of `a`, `i` its bits as whole numbers of half the width."""
    model: Any = model_of({"a": torch.arange(12.0).reshape(3, 4), "free": torch.zeros(4)})
    model.t = torch.nn.Parameter(model.a.detach().t())
    model.h = torch.nn.Parameter(model.a.detach().view(-1)[6:])
    model.register_buffer("i", model.a.detach().view(torch.int16))
    return model


def patch_for(model: torch.nn.Module, changes: dict[str, dict[int, float]], **more: Any) -> Any:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return make_patch({name: tensor.detach() for name, tensor in tensors.items()}, changes, **more)


@pytest.mark.parametrize(
    ("changes", "clash"),
    [
        ({"a": {1: 9.0}, "t": {3: 9.0}}, False),  # one place, the same bits
        ({"a": {1: 9.0}, "t": {3: 8.0}}, True),
        ({"a": {1: 9.0}, "t": {4: 8.0}}, False),  # beside it
        ({"a": {7: 9.0}, "h": {1: 9.0}}, False),
        ({"a": {7: 9.0}, "h": {1: -9.0}}, True),
        ({"t": {7: 9.0}, "h": {0: 8.0}}, True),  # row 1, column 2 of a: its entry 6
        ({"a": {0: 9.0}, "i": {1: 5}}, True),  # two bytes of its four
        ({"a": {0: 9.0}, "i": {2: 5}}, False),
    ],
)
def test_two_names_of_one_place_may_agree_and_may_not_differ(changes: dict[str, dict[int, float]], clash: bool) -> None:
    model = tied()
    before = bits_of(model)
    patch = patch_for(model, changes)
    if clash:
        with pytest.raises(OverlapError, match=r"tensors '\w' and '\w' share memory in this model"):
            apply_patch(model, patch)
    else:
        with apply_patch(model, patch):
            assert bits_of(model) != before
    assert bits_of(model) == before


def test_a_whole_tensor_and_entries_of_another_in_one_memory_are_refused() -> None:
    model = tied()
    before = bits_of(model)
    with apply_patch(model, patch_for(model, {"free": {0: 1.0}}, dense={"a": torch.ones(3, 4)})):
        assert model.t.sum() == 12  # the control
    with pytest.raises(OverlapError, match=r"'(a|t)' and '(a|t)' share memory"):
        apply_patch(model, patch_for(model, {"t": {0: 1.0}}, dense={"a": torch.ones(3, 4)}))
    llama = small_llama(tied=True)
    tensor = torch.zeros_like(llama.lm_head.weight)
    torn = patch_for(llama, {"model.embed_tokens.weight": {0: 1.0}}, dense={"lm_head.weight": tensor})
    with pytest.raises(OverlapError, match=r"'lm_head\.weight', which is one with 'model\.embed_tokens\.weight'"):
        apply_patch(llama, torn)
    assert bits_of(model) == before


@pytest.mark.parametrize(
    ("first", "second", "overlaps"),
    [
        ({"a": {1: 9.0}}, {"t": {3: 8.0}}, True),
        ({"a": {1: 9.0}}, {"i": {3: 8}}, True),
        ({"a": {1: 9.0}}, {"i": {4: 8}}, False),
        ({"h": {0: 9.0}}, {"a": {5: 8.0}}, False),
        ({"h": {0: 9.0}}, {"a": {6: 8.0}}, True),
    ],
)
def test_the_order_of_grafts_is_seen_through_every_view(
    first: dict[str, dict[int, float]], second: dict[str, dict[int, float]], overlaps: bool
) -> None:
    model = tied()
    before = bits_of(model)
    below = apply_patch(model, patch_for(model, first))
    above = apply_patch(model, patch_for(model, second))
    if overlaps:
        with pytest.raises(RevertError, match="later graft"):
            below.revert()
        above.revert()
        below.revert()
    else:
        below.revert()
        above.revert()
    assert bits_of(model) == before


def refused(tensor: Any) -> Any:
    model: Any = model_of({"free": torch.zeros(4)})
    if tensor.is_floating_point() and not tensor.is_quantized:
        model.w = torch.nn.Parameter(tensor)
    else:
        model.register_buffer("w", tensor)
    return model


@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning", "ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(4, 1).expand(4, 3), r"expanded view \(shape \[4, 3\], strides \[1, 0\]\)"),
        (lambda: torch.zeros(6).as_strided((4, 3), (1, 1)), "expanded view"),
        (lambda: torch.eye(4)[:, :3].to_sparse(), "is sparse"),
        (lambda: torch.eye(4)[:, :3].to_sparse_csr(), "is sparse"),
        (lambda: torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8), "is quantized"),
        (lambda: torch.zeros(4, 3, device="meta"), "on the meta device"),
        (lambda: torch.zeros(4, 3, dtype=torch.complex64), "complex64, which no checkpoint holds"),
    ],
    ids=["expanded", "overlapping", "sparse", "csr", "quantized", "meta", "complex"],
)
def test_a_tensor_without_a_place_for_each_entry_is_refused_by_name(make: Any, said: str) -> None:
    model = refused(make())
    patch = make_patch({"w": torch.zeros(4, 3)}, {"w": {1: 9.0}})
    with pytest.raises(CheckpointError, match=rf"tensor 'w'.*{said}"):
        apply_patch(model, patch)
    with pytest.raises(CheckpointError, match=rf"tensor 'w'.*{said}"):
        graft.protect(model, torch.optim.SGD([model.free], lr=0.1), patch.mask)
    with apply_patch(model, make_patch({"free": torch.zeros(4)}, {"free": {1: 9.0}})):  # what it does not touch may be
        assert model.free.tolist() == [0, 9, 0, 0]


def test_weights_made_for_inference_alone_take_a_graft_and_let_it_go() -> None:
    with torch.inference_mode():
        model = model_of({"a": torch.arange(4.0), "b": torch.arange(3.0)})
    assert next(model.parameters()).is_inference()
    before = bits_of(model)
    patch = patch_for(model, {"a": {1: 9.0}}, dense={"b": torch.ones(3)})
    with apply_patch(model, patch):
        assert bits_of(model) != before
    assert bits_of(model) == before
    plain = model_of({"a": torch.arange(4.0), "b": torch.arange(3.0)})
    with torch.inference_mode():
        grafted = apply_patch(plain, patch)
    grafted.revert()
    assert bits_of(plain) == before


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(derandomize=True, deadline=None)
@given(shape=SHAPES, strides=st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_a_tensor_that_may_overlap_itself_is_never_called_free_of_it(shape: list[int], strides: list[int]) -> None:
    tensor = torch.arange(64).as_strided(shape, strides[: len(shape)])
    if tensor.unique().numel() < tensor.numel():
        assert overlaps_itself(tensor)
    assert not overlaps_itself(tensor.clone())


@settings(derandomize=True, deadline=None)
@given(data=st.data())
def test_touches_meet_where_bytes_do(data: st.DataObject) -> None:
    memory = torch.zeros(8, dtype=torch.int64)
    owner: dict[int, set[int]] = {}
    touches = []
    for side in range(2):
        flat = memory.view(data.draw(st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64])))
        start = data.draw(st.integers(0, len(flat) - 1))
        view = flat[start : data.draw(st.integers(start + 1, len(flat)))]
        is_range = data.draw(st.booleans())
        chosen = data.draw(st.sets(st.integers(0, len(view) - 1), min_size=1, max_size=4))
        touches.append(Touch.of("w", view, None if is_range else torch.tensor(sorted(chosen))))
        width = view.element_size()
        entries = range(len(view)) if is_range else chosen
        owner[side] = {(start + i) * width + byte for i in entries for byte in range(width)}
    assert touches[0].overlaps(touches[1]) == touches[1].overlaps(touches[0]) == bool(owner[0] & owner[1])


def packed() -> Any:
    """Build a model of two experts in one tensor, the second parameter out of order in memory."""
    model: Any = model_of({"experts": torch.arange(24.0).reshape(2, 4, 3)})
    model.other = torch.nn.Parameter(torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2))
    return model


@pytest.mark.parametrize("name", ["experts", "other"])
def test_slices_of_a_packed_tensor_are_found_in_it(name: str) -> None:
    model = packed()
    own = getattr(model, name)
    for view in (own.detach()[1], own.detach()[1, 2:].t(), own.detach()[:, 1], own.detach()[1, 2, 1]):
        indices = torch.arange(view.numel())
        owned = Owners(model).entries("slice", view, indices)
        assert (owned.name, owned.tensor is own) == (name, True)
        assert own.detach().flatten()[owned.indices].tolist() == view.flatten().tolist()


def test_a_target_of_slices_is_grafted_where_they_lie() -> None:
    model = packed()
    before, target = bits_of(model), LiveTarget(model)
    target.tensors |= {f"expert.{i}": model.experts.detach()[i] for i in range(2)}
    one, other = torch.tensor([0, 5]), torch.tensor([5])
    entries = {"expert.0": (one, torch.tensor([90.0, 91.0])), "expert.1": (other, torch.tensor([92.0]))}
    prepared = PreparedPatch(model, target, Assignment(entries, {}))
    with prepared.apply() as grafted:
        assert grafted.k == 3
        assert model.experts.flatten()[[0, 5, 17]].tolist() == [90, 91, 92]
        model.experts.data = model.experts.data.clone()  # it moves, and the graft with it
    assert bits_of(model) == before
    target.tensors |= {f"expert.{i}": model.experts.detach()[i] for i in range(2)}
    clash = {**entries, "experts": (torch.tensor([17]), torch.tensor([1.0]))}
    with pytest.raises(OverlapError, match=r"'experts' and 'expert\.1'|'expert\.1' and 'experts'"):
        PreparedPatch(model, target, Assignment(clash, {}))


def test_a_model_that_is_gone_leaves_nothing_behind_and_its_address_may_be_used_again() -> None:
    for _ in range(5):
        model: Any = model_of({"a": torch.arange(1024.0)})
        below = apply_patch(model, patch_for(model, {"a": {1: 9.0}}))
        elsewhere: Any = model_of({"a": torch.arange(1024.0)})
        apply_patch(elsewhere, patch_for(elsewhere, {"a": {1: 9.0}}))
        del elsewhere
        below.revert()
        assert model.a[1] == 1


def test_protection_and_masks_know_tied_views() -> None:
    model = tied()
    specs = {name: spec_of(tensor) for name, tensor in model.named_parameters()}
    mask = Mask.of({"t": specs["t"]}, {"t": [3]})
    flat, offsets = lay_flat(model.t, torch.tensor([3]))
    assert flat[offsets].view(torch.float32).tolist() == [1.0]
    optimizer = torch.optim.SGD([model.t], lr=0.1)
    with graft.protect(model, optimizer, mask):
        model.t.square().sum().backward()
        optimizer.step()
    assert model.a[0, 1] == 1
    assert model.a[0, 2] != 2
