"""Importance over several tasks is the mean of theirs; a region drawn by lot has the size that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.errors import BudgetError
from graft.specs.importance import ImportanceSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.importance.general import draw_region, measure_general
from graft.train.importance.measuring import measure_importance


def test_importance_over_tasks_is_the_mean_of_theirs(base: Path, task: Task) -> None:
    config, other = ImportanceSpec("fisher"), task.with_seed(5)
    apart = [measure_importance(base, each, config).scores for each in (task, other)]
    both = measure_general(base, [task, other], config)
    assert set(both.scores) == set(apart[0])
    for name, score in both.scores.items():
        assert torch.allclose(score(), (apart[0][name]() + apart[1][name]()) / 2)
    assert any(not torch.equal(both.scores[name](), apart[0][name]()) for name in both.scores)  # the other counts
    assert len(both.core(0.1)) == len(draw_region(base, 0.1, "all", 0))


def test_a_region_is_drawn_by_seed(base: Path) -> None:
    n = Checkpoint.open(base).n_parameters
    region = draw_region(base, 100, "all", 0)
    assert len(region) == 100
    assert region == draw_region(base, 100, "all", 0)
    assert region != draw_region(base, 100, "all", 1)
    assert len(draw_region(base, 0.5, "all", 0)) == int(0.5 * n + 0.5)
    assert all("layer" in name for name in draw_region(base, 100, "layers", 0))
    with pytest.raises(BudgetError, match="keeps none, or more than all"):
        draw_region(base, n + 1, "all", 0)
