"""Planted masks and drifts: exact draws, and entries that stay where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.files.tensor_spec import TensorSpec
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.train.planting import Drift, changed_mask, draw_mask, draw_part, size_at


def save(head: Head, folder: Path) -> Checkpoint:
    head.model.save_pretrained(folder)
    head.tokenizer.save_pretrained(folder)
    return Checkpoint.open(folder)


def test_a_drift_leaves_still_entries_alone_and_has_the_size_that_was_asked_for(
    base: Path, tuned: Path, task: Task, tmp_path: Path
) -> None:
    pair = CheckpointPair.open(base, tuned)
    names = Scope("layers").names(pair.base)
    mask, drift = draw_mask(pair.base, names, 300, 0), Drift(pair, names)
    head = open_head(base, task.spec)
    drift.add_to(head.model, 0.5, mask)
    moved = CheckpointPair.open(base, save(head, tmp_path / "drifted"))
    changed = changed_mask(moved, names)
    assert not len(changed & mask)
    assert len(changed) > 0.9 * sum(pair.base.spec(name).numel for name in names) - 300
    assert size_at(moved, changed) == pytest.approx(0.5 * drift.size(), rel=0.1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_draws_are_exact_and_nested(seed: int, k: int, share: float, more: float) -> None:
    class Base:
        def spec(self, name: str) -> TensorSpec:
            return TensorSpec("F32", (len(name), 10))

    mask = draw_mask(Base(), ["a", "bb", "ccc"], k, seed)  # type: ignore[arg-type]
    assert len(mask) == k
    assert mask == draw_mask(Base(), ["ccc", "bb", "a"], k, seed)  # type: ignore[arg-type]
    small, large = sorted((share, more))
    part = draw_part(mask, large, seed)
    assert len(part) == round(large * k)
    assert len(part & mask) == len(part)
    inner = draw_part(mask, small, seed)
    assert len(inner & part) == len(inner)
    assert len(draw_part(mask, 1, seed) & mask) == k
