"""The mean of the weights over the second half of a training, and the warm-up that goes with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from graft.parallel.ranks import Ranks
from graft.specs.train import TrainSpec
from graft.tensors.dtypes import same_bits
from graft.train.protection.region import ProtectedRegion
from graft.train.schedule import TrainingSchedule
from graft.train.weight_average import WeightAverage


def walk(weight: torch.nn.Parameter, average: WeightAverage, n: int, seed: int = 0) -> torch.Tensor:
    """Move a weight n times, each taken up; return the mean of where it was."""
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        weight.data += torch.randn(weight.shape, generator=generator).to(weight.dtype)
        average.add()
        seen.append(weight.detach().double().clone())
    return torch.stack(seen).mean(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_the_mean_of_the_steps_rounded_to_the_dtype(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(dtype))
    average = WeightAverage([weight])
    mean = walk(weight, average, 5)
    average.write()
    assert torch.allclose(
        weight.detach().double(), mean, atol={torch.float32: 1e-6, torch.float64: 1e-14}.get(dtype, 2e-2)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_never_moved_keeps_its_bits(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.tensor([-0.0, 0.1, 1e-40, 3.0], dtype=torch.float64).to(dtype))
    before, average = weight.detach().clone(), WeightAverage([weight])
    for _ in range(3):
        average.add()
    average.write()
    assert same_bits(weight.detach(), before)


def test_of_a_tensor_with_few_free_entries_only_these_are_held() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 5).t())  # also where it is not contiguous
    region = ProtectedRegion("w", weight, np.array([2, 7]), inverted=True)
    average = WeightAverage([weight], [region])
    mean = walk(weight, average, 4)
    last = weight.detach().clone()
    average.write()
    expected = last.flatten()
    expected[[2, 7]] = mean.flatten()[[2, 7]].float()
    assert torch.allclose(weight.detach().flatten(), expected)
    assert [tuple(values.shape) for values in average.state_dict(Ranks())["means"]] == [(2,)]


def test_it_goes_on_from_its_state() -> None:
    weight = torch.nn.Parameter(torch.ones(6))
    whole = WeightAverage([weight])
    walk(weight, whole, 3)
    again = WeightAverage([weight])
    again.load_state_dict(whole.state_dict(Ranks()))
    for average in (whole, again):
        average.add()
    states = [average.state_dict(Ranks()) for average in (whole, again)]
    assert states[0]["n"] == states[1]["n"] == 4
    assert torch.equal(states[0]["means"][0], states[1]["means"][0])


def test_the_rate_rises_over_the_warm_up_and_falls_to_0() -> None:
    config = TrainSpec(lr=0.1, epochs=5, batch_size=4, warmup=0.2)
    schedule = TrainingSchedule((16,), config, 0)
    rates = [schedule.learning_rate(step) for step in range(schedule.steps)]
    assert rates[:4] == pytest.approx([0.0125, 0.0375, 0.0625, 0.0875])
    assert rates[4] == pytest.approx(0.1 * (1 - 4.5 / 20) / 0.8) == max(rates)
    assert rates[-1] == pytest.approx(0.1 * 0.025 / 0.8)
    constant = dataclasses.replace(schedule, config=dataclasses.replace(config, schedule="constant"))
    assert [constant.learning_rate(step) for step in (0, 4, 19)] == pytest.approx([0.0125, 0.1, 0.1])
    plain = dataclasses.replace(schedule, config=dataclasses.replace(config, warmup=0.0))
    assert [plain.learning_rate(step) for step in (0, 10)] == [0.1, 0.1 * (1 - 10 / 20)]


def test_the_second_half_of_the_steps_is_averaged() -> None:
    schedule = TrainingSchedule((12,), TrainSpec(steps=5, batch_size=4, average=True), 0)
    assert [schedule.averages(step) for step in range(5)] == [False, False, True, True, True]
    assert not any(TrainingSchedule((12,), TrainSpec(steps=5), 0).averages(step) for step in range(5))
