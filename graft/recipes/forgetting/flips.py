"""Flips: the test rows that a model answered right before and answers wrong now, and the other way round.

An accuracy that stays may hide as many answers lost as won. With the accuracy b before and a after, rows whose answer
now has nothing to do with the one before would give

    lost = b (1 - a),    won = (1 - b) a.

A model that keeps what it knew is far below both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FLIPS = ("lost", "won")


def count_flips(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Return the share of rows, in 0..1, that were "lost" and "won"; `before` and `after` (n,) are true where right."""
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    return {"lost": float((was & ~now).mean()), "won": float((~was & now).mean())}


def expect_flips(before: float, after: float) -> dict[str, float]:
    """Return the shares that independent rows of the accuracies before and after would give."""
    return {"lost": before * (1 - after), "won": (1 - before) * after}


def flips_of(task: str, before: float, test: Mapping[str, float]) -> dict[str, float]:
    """Return a task's flips and those of independent rows in points, or nothing where they were not counted.

    Args:
        task: its name, which begins the keys.
        before: accuracy at the start.
        test: numbers of the model on test, with "lost" and "won" where they were counted.
    """
    if not all(key in test for key in FLIPS):
        return {}
    chance = expect_flips(before, test["accuracy"])
    found = {f"{task} {key}": 100 * test[key] for key in FLIPS}
    return found | {f"{task} {key}, independent": 100 * chance[key] for key in FLIPS}
