"""Tokens are drawn at any temperature, and none where outputs are no numbers to draw by."""

from __future__ import annotations

import math

import pytest
import torch

from graft.mixture.generation.sampling import Sampler, choose_tokens


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-3])
def test_a_tiny_temperature_draws_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([1.0, 3.0, -torch.inf, 2.9])
    assert {Sampler(temperature, 1.0, seed).draw(logits) for seed in range(5)} == {1}


def test_outputs_that_are_not_finite_leave_no_choice_in_their_row_alone() -> None:
    rows = torch.tensor([[1.0, 2.0], [1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf], [-math.inf, 0.0]])
    for temperature in (0.0, 1.0):
        assert choose_tokens(rows, [Sampler(temperature, 0.5, 0)] * 5) == [1, None, None, None, 1]
