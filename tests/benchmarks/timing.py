"""Times of operations that run in turn, so that a machine's good and bad moments meet all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

Step = tuple[str, Callable[[], object]]  # a step without a name is run and not timed


def time_in_turn(steps: Sequence[Step], runs: int, device: str = "cpu") -> dict[str, float]:
    """The medians of `times_in_turn`."""
    return {name: statistics.median(found) for name, found in times_in_turn(steps, runs, device).items()}


def times_in_turn(steps: Sequence[Step], runs: int, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of each named step in so many rounds of all steps, after one round to warm up.

    On the CPU those of one thread's own time, so that other processes on the machine do not count; on a GPU until the
    device has done what it was asked for.
    """
    times: dict[str, list[float]] = {name: [] for name, _ in steps if name}
    clock, threads = (time.perf_counter if device == "cuda" else time.thread_time), torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else threads)
    try:
        for name, run in [*steps, *runs * list(steps)]:
            _wait(device)
            start = clock()
            run()
            _wait(device)
            if name:
                times[name].append((clock() - start) * 1e3)
    finally:
        torch.set_num_threads(threads)
    return {name: found[1:] for name, found in times.items()}


def ratio_of(mine: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> str:
    """The median of the ratios of times in turn, with its 95 % percentile bootstrap interval."""
    ratios = np.asarray(mine) / np.asarray(theirs)
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
