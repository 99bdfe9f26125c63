from __future__ import annotations

from pathlib import Path

import pytest

from graft.evaluate.bootstrap import Difference
from graft.report.estimates import (
    Estimate,
    Paired,
    average,
    curve_of,
    difference_of,
    figure_of,
    gain_of,
    methods_of,
    models_of,
    over_tasks,
    rivals_of,
    sets_of,
)
from graft.report.run_folder import RunFolder, read_run
from tests.report.runs import MODELS, read_results, write_results, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", patch=False)


def change(folder: Path, *keys: str | int, **values: object) -> RunFolder:
    """Set values, None to delete, in the mapping that the keys lead to; the run as then read."""
    results = read_results(folder)
    place = results
    for key in keys:
        place = place[key]  # type: ignore[index]
    for key, value in values.items():
        place[key] = value
    write_results(folder, results)
    return read_run(folder)


def test_one_seed_has_the_interval_of_its_examples_and_several_that_of_seeds() -> None:
    one, two = average([0.5], (0.4, 0.7)), average([0.5, 0.7], (0.4, 0.7))
    assert (one.low, one.high, str(one)) == (0.4, 0.7, ".500 [.400, .700]")
    assert two.low == pytest.approx(0.6 - 12.7062047 * 0.1)
    assert str(two) == ".600 ± 1.271"
    assert (str(average([0.5])), str(average([0.5, 0.5]))) == (".500", ".500")


@pytest.mark.parametrize(
    ("low", "high", "accuracy", "ece"),
    [(0.1, 0.2, "ahead", "behind"), (-0.2, -0.1, "behind", "ahead"), (-0.1, 0.2, "tie", "tie"), (0, 0.2, "tie", "tie")],
)
def test_who_is_ahead_and_what_is_a_tie(low: float, high: float, accuracy: str, ece: str) -> None:
    for metric, verdict in (("accuracy", accuracy), ("ece", ece)):
        assert Paired(Estimate((low + high) / 2, low, high, (0.0, 0.0)), (), metric).verdict == verdict
    assert Paired(Estimate(0.1, None, None, (0.1,)), (), "ece").verdict == "unknown"


def test_seeds_apart_lie_on_the_side_of_the_mean() -> None:
    parts = (Difference(0.3, 0.2, 0.4), Difference(0.1, -0.1, 0.3), Difference(-0.1, -0.2, -0.05))
    assert Paired(average([0.3, 0.1, -0.1]), parts, "accuracy").apart == 1


def test_figures_are_those_of_the_file(folder: Path) -> None:
    run = read_run(folder)
    values = [seed["models"]["tuned"]["ood"]["far"]["ece"] for seed in read_results(folder)["seeds"]]
    found = figure_of(run, "tuned", "ece", "far")
    assert found
    assert found.values == tuple(values)
    assert found.mean == pytest.approx(sum(values) / 3)
    assert models_of(run) == list(MODELS)
    assert methods_of(run) == ["learned", "attribution", "magnitude", "random"]
    assert sets_of(run) == ["test", "near", "far"]
    assert {name for name in MODELS if "without" in name} == set(MODELS) - set(rivals_of(run)) - {run.main}


def test_the_gain_is_that_of_the_definition(folder: Path) -> None:
    results = read_results(folder)
    stored = [seed["models"]["graft (learned)"]["recovered_gain"] for seed in results["seeds"]]
    found = gain_of(read_run(folder), "graft (learned)")
    assert found
    assert found.values == pytest.approx(stored)
    accuracy = results["seeds"][1]["models"]["base"]["accuracy"]
    assert gain_of(change(folder, "seeds", 1, "models", "tuned", accuracy=accuracy), "graft (learned)") is None


def test_what_one_seed_lacks_is_left_out(folder: Path) -> None:
    run = read_run(folder)
    assert difference_of(run, "interpolation", "ece")
    assert figure_of(run, "interpolation", "nll")
    assert len(curve_of(run)["random"]) == 4
    assert "recovered_gain" in curve_of(run)["random"][0.01]
    results = read_results(folder)
    del results["seeds"][2]["models"]["interpolation"], results["seeds"][1]["differences"]["interpolation"]
    del results["seeds"][0]["curve"][-1]
    write_results(folder, results)
    run = read_run(folder)
    assert difference_of(run, "interpolation", "ece") is None
    assert figure_of(run, "interpolation", "nll") is None
    assert "interpolation" not in models_of(run)
    assert len(curve_of(run)["random"]) == 3


def test_over_tasks_each_task_counts_once() -> None:
    tasks = [Paired(average([x, x + 0.02]), (), "accuracy") for x in (0.1, 0.2, 0.3)]
    assert over_tasks(tasks).estimate.values == pytest.approx((0.11, 0.21, 0.31))
