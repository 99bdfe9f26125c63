"""Times of operations that run in turn, so that a machine's good and bad moments meet all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Step = tuple[str, Callable[[], object]]  # a step without a name is run and not timed


def time_in_turn(steps: Sequence[Step], runs: int, device: str = "cpu") -> dict[str, float]:
    """Median milliseconds of each named step over so many rounds of all steps, after one round to warm up.

    On a GPU a step ends when the device has done what it was asked for.
    """
    times: dict[str, list[float]] = {name: [] for name, _ in steps if name}
    for i in range(runs + 1):
        for name, run in steps:
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            if name and i:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
