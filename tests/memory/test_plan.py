from __future__ import annotations

import pytest
import torch

from graft.memory.plan import Allocation, MemoryPlan, format_bytes, free_memory

CPU = torch.device("cpu")
GIB = 2**30


def test_a_plan_adds_up_and_leaves_out_what_takes_nothing() -> None:
    plan = MemoryPlan.of(
        CPU, [Allocation("weights", 3 * GIB), Allocation("none", 0), Allocation("scores", GIB, "host")]
    )
    assert [part.what for part in plan.parts] == ["weights", "scores"]
    assert {part.place for part in plan.parts} == {"host"}  # a CPU's memory is the host's
    assert plan.total("host") == 4 * GIB
    assert plan.total("device") == 0
    assert plan.to_json()["total"] == {"host": 4 * GIB}


@pytest.mark.parametrize(("free", "fits"), [(4 * GIB, True), (4 * GIB - 1, False)])
def test_it_fits_where_every_place_has_enough(free: int, fits: bool) -> None:
    parts = (Allocation("weights", 3 * GIB), Allocation("gradient", GIB), Allocation("scores", 5, "host"))
    plan = MemoryPlan("cuda:0", parts, {"device": free, "host": 5})
    assert plan.fits is fits
    assert plan.lines() == [
        "weights        3 GiB  cuda:0",
        "gradient       1 GiB  cuda:0",
        "scores           5 B  host memory",
        "total          4 GiB  cuda:0",
        "total            5 B  host memory",
        "free now: 4 GiB in cuda:0, 5 B in host memory: " + ("it fits" if fits else "it does not fit"),
    ]
    assert MemoryPlan("cuda:0", parts, {"device": free, "host": 4}).fits is False


def test_what_is_not_known_is_said() -> None:
    plan = MemoryPlan("mps", (Allocation("activations", None), Allocation("weights", 1)), {})
    assert plan.lines()[0].split() == ["activations", "unknown", "mps"]
    assert plan.lines()[-1] == "what is free cannot be asked here"
    assert plan.to_json()["parts"][0]["bytes"] is None
    assert plan.total("device") == 1


def test_free_memory_is_what_can_be_had() -> None:
    free = free_memory(CPU)
    assert free is None or 2**26 < free < 2**50


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1023, "0.999 KiB"), (1536, "1.5 KiB"), (5 * GIB // 4, "1.25 GiB")]
)
def test_sizes_are_shown_with_three_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text
