"""A path from the trained toy base to its tuned model, and candidates on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.scores.candidates import Candidates
from graft.scores.gradient_path import GradientPath
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import changed_mask

K = 200


@pytest.fixture
def path(base: Path, tuned: Path, task: Task) -> GradientPath:
    """The base model with the toy task's training examples, all tensors in scope."""
    pair = CheckpointPair.open(base, tuned)
    head = open_head(base, task.spec)
    return GradientPath(head, pair, pair.base.parameters, task.train_examples(), batch_size=64, class_debias=False)


@pytest.fixture
def candidates(path: GradientPath) -> Candidates:
    """Every changed entry, for a budget of `K` over all tensors."""
    mask = changed_mask(path.pair)
    return Candidates(path.pair, path.weights, mask, [(tuple(mask), K)])
