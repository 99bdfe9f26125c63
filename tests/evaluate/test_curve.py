from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.errors import BudgetError
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.curve import CurvePoint, GainCurve, measure_curve
from graft.evaluate.evaluation import evaluate_task
from graft.localize.localization import localize_skill
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task


def test_the_curve_is_that_of_the_grafts_on_validation(base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec("taylor", scope="all", batch_size=64)
    curve = measure_curve(base, tuned, task, config, densities=(0.5, 1e-9, 0.05))
    assert (curve.method, curve.n) == ("taylor", len(task.validation_examples()))
    assert curve.tuned > curve.base + 0.1  # there is something to recover
    assert [(point.density, point.k) for point in curve.points] == [(0.05, 1029), (0.5, 10_288)]
    as_test = Task.load(task.folder / "task.yaml", (f"data.test={task.spec.data.validation}", "ood={}"))
    assert evaluate_task(base, as_test)["accuracy"] == pytest.approx(curve.base)
    assert evaluate_task(tuned, as_test)["accuracy"] == pytest.approx(curve.tuned)
    for point in curve.points:
        patch = localize_skill(base, tuned, task, LocalizeSpec("taylor", scope="all", budget=point.k))
        assert evaluate_task(base, as_test, patches=(patch,))["accuracy"] == pytest.approx(point.accuracy)
        assert point.gain == pytest.approx((point.accuracy - curve.base) / (curve.tuned - curve.base))
    assert curve.points[-1].gain is not None
    assert curve.points[-1].gain > 0.8  # half of all weights hold the skill
    assert curve.area == pytest.approx(sum(point.gain or 0 for point in curve.points) / 2)
    assert curve.interval is not None
    assert curve.interval[0] < curve.area < curve.interval[1]
    assert curve.to_json()["area"] == curve.area


def test_no_density_that_can_be_had_is_refused(base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec("magnitude", scope="layers")
    with pytest.raises(BudgetError, match=r"none of the densities keeps at least 1 and at most the [\d,]+ entries"):
        measure_curve(base, tuned, task, config, densities=(1e-9, 1.0))  # all of the layers are less than all
    with pytest.raises(BudgetError, match=r"equal in scope"):
        measure_curve(base, base, task, config)


@pytest.mark.parametrize("structure", [{"structure": "columns"}, {"max_rank": 1, "scope": r"0\.attention.*weight$"}])
def test_a_density_that_a_structure_cannot_have_is_left_out(
    structure: dict[str, Any], base: Path, tuned: Path, task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LocalizeSpec("magnitude", **structure)
    dense, sparse = (0.1, 1e-3) if config.has_lines else (0.02, 1e-3)
    refused = sparse if config.has_lines else dense
    found = measure_curve(base, tuned, task, config, densities=(sparse, 1e-9, dense, 5e-3))
    said = capsys.readouterr().err
    assert [point.density for point in found.points] == sorted({sparse, dense, 5e-3} - {refused})
    assert f"note: density {refused:g} is left out of the curve: " in said
    assert "note: density 1e-09 is left out of the curve: it keeps no entry" in said
    assert found.interval is not None  # of those that are there
    with pytest.raises(BudgetError, match=rf"none of the densities can be had: at {refused:g} "):
        measure_curve(base, tuned, task, config, densities=(refused,))


def curve(base: float, tuned: float, gains: list[float]) -> GainCurve:
    points = [
        CurvePoint(density, k, base + gain * (tuned - base), gain)
        for density, k, gain in zip((1e-4, 1e-3, 1e-2), (100, 1000, 10_000), gains, strict=True)
    ]
    return GainCurve("learned", 100, base, tuned, tuple(points))


@pytest.mark.parametrize(
    ("found", "reached", "said"),
    [
        (curve(0.5, 0.9, [0.5, 0.9, 1.0]), 1e-3, "90% of the gain is reached at a density of 0.001 (1,000 weights)."),
        (
            curve(0.5, 0.9, [0.1, 0.62, 0.5]),
            None,
            "No density up to 0.01 recovers 90% of the gain; the most is 62% at 0.001.",
        ),
        (
            curve(0.75, 0.7, [1.0, 1.0, 1.0]),
            None,
            "Tuning did not raise the validation accuracy (0.750 before, 0.700 after): there is no gain to recover.",
        ),
    ],
)
def test_the_sentence_says_where_the_gain_is_reached(found: GainCurve, reached: float | None, said: str) -> None:
    assert found.sentence == said
    assert (found.area is None) is (found.tuned <= found.base)
    plain = found.to_json()
    assert (plain["reached"], plain["sentence"], len(plain["points"])) == (reached, said, 3)


def test_a_gain_that_is_enough_but_for_rounding_is_reached() -> None:
    gain = recovered_gain(0.59, 0.5, 0.6)
    assert gain is not None
    assert gain < 0.9
    assert curve(0.5, 0.6, [0.5, gain, 1.0]).to_json()["reached"] == 1e-3
