from __future__ import annotations

import numpy as np
import pytest

from graft.evaluate.bootstrap import paired_difference
from graft.evaluate.correctness import accuracy
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.pooling import pool_differences, pool_seeds
from graft.specs.reader import to_plain


def model(correct: np.ndarray) -> Outcomes:
    p = np.where(correct[:, None], [0.8, 0.2], [0.2, 0.8])
    return Outcomes.from_probabilities(p, np.zeros(len(correct), dtype=int))


def test_figures_by_hand() -> None:
    seeds = [{"estimate": 0.1, "low": 0.0, "high": 0.2}, {"estimate": 0.3, "low": 0.2, "high": 0.6}]
    found = pool_differences(seeds)
    assert {key: found[key] for key in ("mean", "low", "high")} == pytest.approx({"mean": 0.2, "low": 0.1, "high": 0.4})
    assert found["half"] == pytest.approx(12.7062047 * 0.1)
    assert found["values"] == [0.1, 0.3]
    assert pool_differences(seeds[:1]) == {"mean": 0.1, "half": None, "values": [0.1], "low": 0.0, "high": 0.2}


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_interval_covers_whether_seeds_err_together_or_apart(shared: float) -> None:
    """Three seeds on the same 150 examples, a true difference of .1; `shared` of the right answers are the same."""
    rng, held, widths = np.random.default_rng(1), [], []
    for trial in range(120):
        common = rng.random((2, 150))
        differences = []
        for _ in range(3):
            own = np.where(rng.random((2, 150)) < shared, common, rng.random((2, 150)))
            a, b = model(own[0] < 0.7), model(own[1] < 0.6)
            differences.append(to_plain(paired_difference(a, b, accuracy, draws=100, seed=trial)))
        found = pool_differences(differences)
        held.append(found["low"] <= 0.1 <= found["high"])
        widths.append(found["high"] - found["low"])
    assert np.mean(held) >= 0.9
    assert np.mean(widths) == pytest.approx(4 * np.sqrt((0.21 + 0.24) / 150), rel=0.1)


def test_only_what_every_seed_has_is_pooled() -> None:
    one = {"estimate": 1.0, "low": 0.0, "high": 2.0}
    full = {"base": {"test": {"accuracy": one, "ece": one}, "far": {"ece": one}}, "tuned": {"test": {"ece": one}}}
    less = {"base": {"test": {"ece": one}}}
    assert pool_seeds([{"differences": full}]).keys() == {"base", "tuned"}
    found = pool_seeds([{"differences": full}, {"differences": less}])
    assert found == {"base": {"test": {"ece": pool_differences([one, one])}}}
