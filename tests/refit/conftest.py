"""A small student beside its teacher: the toy base, and the toy model tuned from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.patch.mask import Mask
from graft.refit.data import RefitData
from graft.refit.entries import Entries
from graft.refit.objective import Objective
from graft.refit.support import SupportContext, match_weights
from graft.refit.teacher import make_teacher
from graft.specs.refit import RefitSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import changed_mask
from tests.cli.conftest import cli as cli
from tests.models import toy_examples

K = 60


@pytest.fixture
def data() -> RefitData:
    return RefitData(toy_examples(48, 11), toy_examples(24, 12), "texts")


@pytest.fixture
def objective(base: Path, tuned: Path, task: Task, data: RefitData) -> Objective:
    """The divergence of the live base from the tuned model."""
    teacher = make_teacher(open_head(tuned, task.spec), data.train, data.validation)
    return Objective(open_head(base, task.spec), teacher)


@pytest.fixture
def context(objective: Objective, base: Path, data: RefitData) -> SupportContext:
    """All tensors of the live base, for a support of `K` entries."""
    checkpoint = Checkpoint.open(base)
    weights = match_weights(objective.head.model, sorted(checkpoint.parameters))
    return SupportContext(objective, checkpoint, weights, data.train, K, RefitSpec())


@pytest.fixture
def entries_of(context: SupportContext) -> Callable[[Mask], Entries]:
    return lambda mask: Entries(context.weights, mask, context.base)


@pytest.fixture
def moved(base: Path, tuned: Path) -> Mask:
    """Every entry that tuning changed."""
    return changed_mask(CheckpointPair.open(base, tuned))
