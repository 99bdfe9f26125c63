from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.errors import ConfigError
from graft.localize.path import GradientPath
from graft.memory.localize import plan_localization
from graft.memory.plan import MemoryPlan
from graft.specs.localize import CandidateSpec, LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from tests.models import write_causal


def sizes(plan: MemoryPlan) -> dict[str, int | None]:
    return {part.what.partition(" (")[0]: part.bytes for part in plan.parts}


@pytest.mark.parametrize(("dtype", "itemsize"), [("auto", 4), ("float32", 4), ("bfloat16", 2)])
def test_the_figures_are_those_of_the_tensors(dtype: str, itemsize: int, base: Path, task: Task) -> None:
    checkpoint = Checkpoint.open(base)
    in_scope = [checkpoint.spec(name).numel for name in Scope("layers").names(checkpoint)]
    plan = plan_localization(base, task, LocalizeSpec(budget=50), runtime=Runtime(device="cpu", dtype=dtype))
    found = sizes(plan)
    assert found["weights"] == itemsize * checkpoint.n_parameters
    assert found["largest gradient"] == itemsize * max(in_scope)
    assert "a number per weight in scope" not in found
    assert "candidates (at most 2,000)" in {part.what for part in plan.parts}  # 8 micro-batches x 5 x 50
    exact = sizes(
        plan_localization(
            base, task, LocalizeSpec(budget=50, exact_scores=True), runtime=Runtime(device="cpu", dtype=dtype)
        )
    )
    assert exact["a number per weight in scope"] == 4 * sum(in_scope)
    assert {key: exact[key] for key in ("weights", "largest gradient")} == {
        key: found[key] for key in ("weights", "largest gradient")
    }


def test_the_plan_is_of_the_tensors_that_are_really_made(base: Path, tuned: Path, task: Task) -> None:
    head, pair = open_head(base, task.spec), CheckpointPair.open(base, tuned)
    path = GradientPath(head, pair, Scope("layers").names(pair.base), task.train_examples()[:4])
    squares = path.squared_gradients_at(1.0)
    found = sizes(plan_localization(base, task, LocalizeSpec("fisher", budget=50), device="cpu"))
    assert found["weights"] == sum(weight.nbytes for weight in head.model.parameters())
    assert found["largest gradient"] == max(weight.nbytes for weight in path.weights.values())
    assert found["a number per weight in scope"] == sum(square.nbytes for square in squares.values())


@pytest.mark.parametrize(("method", "of_each"), [("fisher", 4), ("paper", 8), ("magnitude", None)])
def test_methods_without_candidates_say_what_they_hold(
    method: Any, of_each: int | None, base: Path, task: Task
) -> None:
    checkpoint = Checkpoint.open(base)
    weights = sum(checkpoint.spec(name).numel for name in Scope("layers").names(checkpoint))
    found = sizes(plan_localization(base, task, LocalizeSpec(method, budget=50), runtime=Runtime(device="cpu")))
    assert found.get("a number per weight in scope") == (of_each and of_each * weights)
    assert ("weights" in found) is (of_each is not None)  # without data there is no model


def test_checkpointing_takes_less(base: Path, task: Task) -> None:
    totals = [
        plan_localization(
            base, task, LocalizeSpec(budget=50), runtime=Runtime(device="cpu", gradient_checkpointing=on)
        ).total("host")
        for on in (False, True)
    ]
    assert totals[1] < totals[0]


def test_tied_weights_count_once(task: Task, tmp_path: Path) -> None:
    base = write_causal(tmp_path / "base", steps=0)
    found = sizes(plan_localization(base, task, LocalizeSpec(budget=5), runtime=Runtime(device="cpu")))
    assert found["weights"] == 4 * Checkpoint.open(base).n_parameters


def test_candidates_are_no_more_than_there_are(base: Path, task: Task) -> None:
    spec = LocalizeSpec(budget=500, candidates=CandidateSpec(multiple=10**9))
    plan = plan_localization(base, task, spec, runtime=Runtime(device="cpu"))
    checkpoint = Checkpoint.open(base)
    weights = sum(checkpoint.spec(name).numel for name in Scope("layers").names(checkpoint))
    assert f"candidates (at most {weights:,})" in {part.what for part in plan.parts}


def test_a_scope_that_holds_nothing_is_refused(base: Path, task: Task) -> None:
    with pytest.raises(ConfigError, match="holds no tensor"):
        plan_localization(base, task, LocalizeSpec(scope="nothing_of_this"))
