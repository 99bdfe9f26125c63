"""The difference that a tool adds: the tuned bits where any float reaches them, and a count where none does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.sources.adapters.additive import add_difference, difference_dtype, find_difference
from graft.tensors.dtypes import as_bits

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def draws(n: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Values over many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (6 * torch.rand(n, generator=generator) - 4)
    return (sizes * torch.randn(n, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_reached_means_that_adding_gives_the_bits(dtype: torch.dtype) -> None:
    base, tuned = draws(20_000, 1, dtype), draws(20_000, 2, dtype)
    difference, reached = find_difference(base, tuned)
    lands = as_bits(add_difference(base, difference)) == as_bits(tuned)
    assert difference.dtype == difference_dtype(dtype)
    assert torch.equal(lands, reached)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=str)
def test_low_precision_is_reached_unless_a_value_shrinks_by_the_bits_between(dtype: torch.dtype, bits: int) -> None:
    base, tuned = draws(200_000, 3, dtype), draws(200_000, 4, dtype)
    reached = find_difference(base, tuned)[1]
    shrinks = base.abs().float() > tuned.abs().float() * 2 ** (24 - bits)
    assert bool(reached[~shrinks].all())
    assert not bool(reached[shrinks].all())


def test_full_precision_is_reached_unless_a_value_shrinks_or_turns() -> None:
    generator = torch.Generator().manual_seed(7)
    base, tuned = (torch.randn(100_000, generator=generator) for _ in range(2))
    reached = find_difference(base, tuned)[1]
    near = (tuned / base > 0.5) & (tuned / base < 2)
    assert bool(reached[near].all())
    assert 0.1 < float((~reached).float().mean()) < 0.5


def test_the_float_beside_the_nearest_is_tried_too() -> None:
    base, tuned = -draws(100_000, 8, torch.float32).abs(), torch.ones(100_000)  # values spread unevenly about 1
    nearest = as_bits(base + (tuned - base)) == as_bits(tuned)
    reached = find_difference(base, tuned)[1]
    assert bool(reached[nearest].all())
    assert int((reached & ~nearest).sum()) > 100


def test_a_missed_value_is_missed_by_no_more_than_the_differences_spacing() -> None:
    base, tuned = draws(50_000, 5, torch.float32), draws(50_000, 6, torch.float32)
    difference, reached = find_difference(base, tuned)
    beside = (add_difference(base, difference) - tuned).abs()[~reached]
    spacing = torch.from_numpy(np.spacing(difference.abs().numpy()))[~reached]
    assert len(beside) > 1000
    assert bool((beside <= spacing).all())


def neighbors(value: float, n: int) -> list[float]:
    """The n float32 numbers on either side of a number, and itself."""
    bits = np.float32(value).view(np.int32)
    around = (bits + np.arange(-n, n + 1, dtype=np.int32)).view(np.float32)
    return [float(x) for x in around if np.isfinite(x)]


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**99), max_value=2.0**99)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(base=FINITE, tuned=FINITE)
def test_where_three_tries_fail_no_float_near_the_difference_lands(base: float, tuned: float) -> None:
    before, after = torch.tensor([base]), torch.tensor([tuned])
    difference, reached = find_difference(before, after)
    tries = torch.tensor(neighbors(float(difference), 50))
    lands = as_bits(before + tries) == as_bits(after)
    assert bool(lands.any()) == bool(reached)


def test_minus_zero() -> None:
    zeros = torch.tensor([0.0, -0.0, 0.5, -0.0])
    assert find_difference(zeros, torch.full((4,), -0.0))[1].tolist() == [False, True, False, True]
    assert find_difference(zeros, torch.zeros(4))[1].tolist() == [True] * 4
    everything = torch.tensor([-0.0, 0.0, 1.5, -3e38, 1e-45])
    assert torch.equal(as_bits(everything + -0.0), as_bits(everything))  # what fills SHiRA's places
