"""Differences that only rounding explains are told from changes, bit by bit."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from graft.tensors.dtypes import as_bits, same_bits
from graft.tensors.rounding import narrow_dtype, undo_rounding

WIDE = [torch.float32, torch.float64]
NARROW = [torch.bfloat16, torch.float16]
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize("narrow", NARROW)
@given(VALUES, st.data())
def test_rounded_values_read_as_the_base_and_changed_ones_stay(
    narrow: torch.dtype, wide: torch.dtype, values: list[float], data: st.DataObject
) -> None:
    base = torch.tensor(values, dtype=wide)
    moved = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    tuned = torch.where(moved, base + 1000, base).to(narrow).to(wide)
    restored = undo_rounding(base, tuned, narrow)
    assert torch.equal(as_bits(restored)[moved], as_bits(tuned)[moved])
    assert torch.equal(as_bits(restored)[~moved], as_bits(base)[~moved])


def test_signs_of_zero_are_changes_and_nothing_is_undone_without_rounding() -> None:
    base, tuned = torch.tensor([0.0, -0.0, 1.5]), torch.tensor([-0.0, -0.0, 1.5])
    assert same_bits(undo_rounding(base, tuned, torch.bfloat16), tuned)
    assert same_bits(undo_rounding(base + 1e-3, base, torch.float32), base)
    counts = torch.tensor([300])
    assert torch.equal(undo_rounding(counts, counts + 1, torch.bfloat16), counts + 1)


def test_wide_weights_that_hold_narrow_values_are_recognized() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert narrow_dtype([weights]) is None
    for narrow in NARROW:
        rounded = weights.to(narrow).float()
        assert narrow_dtype([rounded, rounded.double()]) == narrow
        assert narrow_dtype([rounded, weights]) is None
    assert narrow_dtype([weights.bfloat16()]) is None  # its dtype says so itself
