from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.refit.measured import measure
from graft.refit.mixture import MixedObjective, assign_part, examples_of
from graft.refit.objective import Objective
from graft.refit.teacher import RecordedTeacher
from graft.tasks.head import open_head
from graft.tasks.task import Task


def test_a_mixture_is_the_weighted_mean_of_its_parts(shelf: Path) -> None:
    task = Task.load(shelf / "toy/task.yaml")
    head, tuned = (open_head(shelf / name, task.spec) for name in ("base", "tuned"))
    texts = task.validation_examples()[:5]
    first, second = assign_part(texts, 0), assign_part(texts[:3], 1)  # the same texts, fitted to two teachers
    rows = [*first, *second]
    parts = [Objective(head, RecordedTeacher(teacher, rows)) for teacher in (tuned, head)]
    mixed = MixedObjective(parts, (2.0, 0.5))
    assert [len(examples_of(rows, part)) for part in (0, 1)] == [5, 3]
    with torch.no_grad():
        alone = [float(objective(own)) for objective, own in zip(parts, (first, second), strict=True)]
        assert alone[0] > 0.01
        assert float(mixed(rows)) == pytest.approx((2 * 5 * alone[0] + 0.5 * 3 * alone[1]) / 8, rel=1e-5, abs=1e-7)
        assert float(mixed(first)) == pytest.approx(2 * alone[0], rel=1e-5)
    assert measure(mixed, rows).kl == pytest.approx(2 * alone[0] + 0.5 * alone[1], rel=1e-5, abs=1e-7)
