from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.tensors.touched_lines import block_cost, number


@given(st.lists(st.integers(0, 40), max_size=30))
@settings(deadline=None)
def test_places_are_found_again_by_their_numbers(places: list[int]) -> None:
    unique, numbers = number(torch.tensor(places, dtype=torch.int64))
    assert unique.tolist() == sorted(set(places))
    assert unique[numbers].tolist() == places


def test_a_block_costs_its_products_and_what_is_gathered_for_it() -> None:
    assert block_cost(0, 0) == 0
    assert block_cost(3, 5) == 15 + 48 * 8
    assert block_cost(5, 3) == block_cost(3, 5)
