"""Protected entries keep their bits, whatever the optimizer; without protection the same run moves them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.train.protection.compact import is_elementwise
from graft.train.protection.guard import How
from tests.train.protection.loops import OPTIMIZERS, Setting, bits_of_weights, make_mask, make_model, moved_at, run

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DENSITIES = (1e-5, 1e-3, 0.1, 0.5, 0.9)
ELEMENTWISE = [name for name, make in OPTIMIZERS.items() if is_elementwise(make(make_model().parameters()))]
WAYS: tuple[How, ...] = ("auto", "restore", "bits", "compact")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(derandomize=True, deadline=None, max_examples=6)
@given(
    dtype=st.sampled_from(DTYPES),
    density=st.sampled_from(DENSITIES),
    accumulation=st.sampled_from((1, 3)),
    clip=st.sampled_from((None, 0.1)),
    resume=st.booleans(),
    how=st.sampled_from(WAYS),
)
def test_protected_entries_keep_their_bits(
    optimizer: str, density: float, dtype: torch.dtype, accumulation: int, clip: float | None, resume: bool, how: How
) -> None:
    if optimizer == "sgd, fused":
        dtype = torch.float32  # on the CPU, torch 2.13 moves hardly any entry in half precision
    setting = Setting(optimizer, dtype, accumulation, clip, resume, how)
    model = make_model(dtype)
    before, mask = bits_of_weights(model), make_mask(model, density)
    free, kept = run(setting, None), run(setting, mask)
    assert moved_at(before, free, mask) > 0.4 * len(mask)  # the control
    assert moved_at(before, kept, mask) == 0
    others = mask.complement(mask.specs)
    assert moved_at(before, kept, others) > 0.4 * len(others)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("optimizer", ["sgd, momentum", "adamw", "adamw, fused", "rmsprop"])
def test_going_on_from_a_saved_state_ends_in_the_same_bits(optimizer: str, how: How) -> None:
    mask = make_mask(make_model(), 0.9)
    whole, resumed = (run(Setting(optimizer, resume=resume, how=how), mask) for resume in (False, True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "optimizer", [name for name, make in OPTIMIZERS.items() if is_elementwise(make(make_model().parameters()))]
)
def test_every_way_trains_the_free_entries_alike(optimizer: str) -> None:
    mask = make_mask(make_model(), 0.9)
    one, *others = (run(Setting(optimizer, clip=0.1, how=how), mask) for how in ("restore", "bits", "compact"))
    for other in others:
        for name in one:
            assert torch.allclose(one[name].view(torch.float32), other[name].view(torch.float32), rtol=1e-5, atol=1e-7)
