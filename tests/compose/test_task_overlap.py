from __future__ import annotations

import math

import numpy as np
import pytest

from graft.compose.task_overlap import measure_task_overlap
from graft.errors import ConfigError
from graft.patch.skill_patch import Patch
from tests.compose.patches import patch_of


def region(*indices: int) -> Patch:
    return patch_of({("layers.0.w", i): 1.0 for i in indices})


def test_means_over_pairs_of_seeds_and_the_ceiling_on_the_diagonal() -> None:
    found = measure_task_overlap(
        {"a": [region(0, 1), region(1, 2)], "b": [region(2, 3), region(4, 5)], "c": [region(9)]}
    )
    assert found.names == ("a", "b", "c")
    shared = found.means["intersection"]
    assert shared[0, 0] == 1  # the ceiling: {1} of two
    assert found.means["jaccard"][0, 0] == pytest.approx(1 / 3)
    assert shared[0, 1] == shared[1, 0] == 1 / 4  # one of four pairs meets in one
    assert found.means["expected"][0, 1] == pytest.approx(2 * 2 / 26)
    assert found.means["expected_by_tensor"][0, 2] == pytest.approx(2 * 1 / 12)
    assert shared[1, 1] == 0
    assert np.isnan(shared[2, 2])  # one seed has no ceiling
    plain = found.to_json()
    assert plain["jaccard"][2][2] is None
    assert plain["jaccard"][0][1] == plain["jaccard"][1][0]


def test_a_cell_s_share_is_that_of_the_column_s_region() -> None:
    found = measure_task_overlap({"a": [region(0, 1, 2, 3)], "b": [region(3, 4)]})
    shares = found.means["share_of_b"]
    assert (shares[0, 1], shares[1, 0]) == (1 / 2, 1 / 4)


def test_one_seed_each_is_the_plain_overlap() -> None:
    found = measure_task_overlap({"a": [region(0, 1)], "b": [region(1, 2)]})
    assert found.means["jaccard"][0, 1] == pytest.approx(1 / 3)
    assert math.isnan(found.means["jaccard"][0, 0])
    with pytest.raises(ConfigError, match="two patches or more"):
        measure_task_overlap({"a": [region(0)]})
