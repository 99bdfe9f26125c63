"""The plan of a refit counts the entries that it will fit, of whole lines too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.errors import ConfigError
from graft.memory.localize import plan_localization
from graft.memory.refit import ENTRY, plan_refit
from graft.refit.refit import refit_skill
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.specs.runtime import Runtime
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope

CPU = Runtime(device="cpu")


def entries(base: Path, tuned: Path, task: Task, **settings: Any) -> int:
    plan = plan_refit(base, tuned, task, RefitSpec(**settings), runtime=CPU)
    (size,) = (part.bytes for part in plan.parts if part.what == "entries and their optimizer")
    return int(size or 0) // ENTRY


def test_entries_one_by_one_are_counted_exactly(base: Path, tuned: Path, task: Task) -> None:
    assert entries(base, tuned, task, budget=77) == 77
    assert entries(base, tuned, task, density=1e-3) == round(1e-3 * Checkpoint.open(base).n_parameters)
    plan = plan_refit(base, tuned, task, RefitSpec(lines=9, structure="rows"), k=5, runtime=CPU)
    assert ENTRY * 5 in [part.bytes for part in plan.parts]  # of a support that is given


@pytest.mark.parametrize("structure", ["columns", "rows"])
def test_of_whole_lines_the_plan_is_no_less_than_what_is_fitted(
    structure: str, base: Path, tuned: Path, task: Task
) -> None:
    # of width 32 and 64: the two longest lines are columns, or rows, of 64
    assert entries(base, tuned, task, structure=structure, lines=2) == 128
    assert entries(base, tuned, task, structure=structure, bytes=900) == 900 * 64 // (4 * 64 + 2)
    assert entries(base, tuned, task, structure=structure, budget=200) == 200
    for size in ({"lines": 2}, {"bytes": 900}, {"budget": 200}):
        config = RefitSpec(structure=structure, epochs=1, texts=16, **size)  # type: ignore[arg-type]
        patch = refit_skill(base, tuned, task, config)
        most = entries(base, tuned, task, structure=structure, **size)
        assert most / 2 <= len(patch) <= most


def test_more_lines_than_there_are_take_no_more_than_all(base: Path, tuned: Path, task: Task) -> None:
    checkpoint = Checkpoint.open(base)
    specs = [checkpoint.spec(name) for name in Scope("layers").names(checkpoint)]
    everything = sum(spec.numel for spec in specs if len(spec.shape) == 2)
    assert entries(base, tuned, task, structure="rows", lines=10**6) == everything
    assert entries(base, tuned, task, structure="rows", bytes=10**8) == everything


def test_lines_by_a_score_plan_a_number_per_weight(base: Path, tuned: Path, task: Task) -> None:
    in_scope = [Checkpoint.open(base).spec(name).numel for name in Scope("layers").names(Checkpoint.open(base))]
    plan = plan_refit(base, tuned, task, RefitSpec("taylor", structure="columns", lines=2), runtime=CPU)
    dense = {part.what: part.bytes for part in plan.parts}["a number per weight in scope"]
    assert dense == 4 * sum(in_scope)
    free = plan_refit(base, tuned, task, RefitSpec("taylor", budget=9), runtime=CPU)
    assert not any(part.what == "a number per weight in scope" for part in free.parts)


def test_what_would_be_refused_is_refused_by_the_plan(base: Path, tuned: Path, task: Task) -> None:
    with pytest.raises(ConfigError, match="holds no matrix"):
        entries(base, tuned, task, structure="rows", lines=2, scope="LayerNorm")
    with pytest.raises(ConfigError, match="holds no matrix"):
        plan_localization(base, task, LocalizeSpec(structure="rows", lines=2, scope="LayerNorm"), CPU)
