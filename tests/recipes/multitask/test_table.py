"""The tables of several tasks say over how many seeds they are."""

from __future__ import annotations

import numpy as np
import pytest

from graft.compose.task_overlap import KEYS, TaskOverlap
from graft.recipes.multitask.summary import summarize
from graft.recipes.multitask.table import tabulate_run
from graft.results.seeds import MultitaskSeed


def finished(seed: int) -> MultitaskSeed:
    row = {"n": 40, "accuracy": 0.5 + seed / 10, "ece": 0.1, "nll": 0.7}
    methods = {name: {"meals": row, "films": row} for name in ("base", "tuned", "graft")}
    return MultitaskSeed(seed, methods, {}, {}, {}, {}, {})


@pytest.mark.parametrize(
    ("n", "said"), [(1, "One seed."), (2, "Mean ± 95 % t-interval over 2 seeds.")]
)  # of one seed there is no interval
def test_an_interval_is_promised_where_there_is_one(n: int, said: str) -> None:
    seeds = [finished(seed) for seed in range(n)]
    overlap = TaskOverlap(("meals", "films"), dict.fromkeys(KEYS, np.full((2, 2), np.nan)))
    first, methods, *_ = tabulate_run(summarize(seeds), seeds, overlap, {})
    assert first == f"Test rows (the first of each split): meals 40, films 40. {said}"
    assert ("±" in str(methods)) is (n > 1)
