"""A metric is a function and a row: what a new one shows up in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from graft_cli.entry import main

from graft.evaluate.comparison import differences
from graft.evaluate.evaluation import Prediction, Predictions
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.registry import METRICS, MetricEntry, is_higher_better
from graft.report.page.build_page import write_report
from tests.report.runs import read_results, write_results, write_run

TOY = MetricEntry(
    name="doubt",
    help="mean of what confidence leaves open",
    target=f"{__name__}:doubt",
    label="doubt",
    higher_is_better=False,
)


def doubt(outcomes: Outcomes) -> float:
    return float(1 - outcomes.confidence.mean())


@pytest.fixture
def toy() -> Iterator[MetricEntry]:
    with METRICS.extended(TOY):
        yield TOY


def predictions(shift: float) -> Predictions:
    logits = np.random.default_rng(0).normal(0, 1, (40, 2)) * shift
    return Predictions(Prediction(logits, np.arange(40) % 2))


def test_each_metric_lies_within_its_limits_and_says_what_it_is() -> None:
    outcomes = predictions(1.0).test.outcomes()
    for entry in METRICS.values():
        assert entry.limits[0] <= entry.load()(outcomes) <= entry.limits[1]
        assert not entry.help.endswith(".")
    assert [name for name in METRICS if is_higher_better(name)] == ["accuracy", "f1"]
    assert is_higher_better("recovered_gain")


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_in_the_json_with_an_interval_and_in_comparisons() -> None:
    report = predictions(1.0).report().to_json()
    assert 0 < report["doubt"] < 0.5
    low, high = report["ci"]["doubt"]
    assert low < report["doubt"] < high
    compared = differences(predictions(3.0), {"base": predictions(1.0)})["base"]["test"]
    assert compared["doubt"].high < 0  # surer


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_in_the_help_the_command_s_table_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "doubt" in capsys.readouterr().out.split("Metrics:")[1]
    report = predictions(1.0).report()
    monkeypatch.setattr("graft.evaluate.comparison.evaluate_against", lambda *_, **__: report)
    monkeypatch.setattr("graft_cli.options.load_task", lambda *_: None)
    with pytest.raises(SystemExit):
        main(["evaluate", "base", "--task", "task.yaml"])
    assert "doubt" in capsys.readouterr().out.splitlines()[0]
    folder = write_run(tmp_path / "run", seeds=1, patch=False)
    results = read_results(folder)
    assert "doubt" not in write_report([folder], tmp_path / "before.html").page.read_text()
    for model in results["seeds"][0]["models"].values():
        model["doubt"] = 0.25
    write_results(folder, results)
    page = write_report([folder], tmp_path / "after.html").page.read_text()
    assert '<th scope="col">doubt</th>' in page


@pytest.mark.usefixtures("toy")
def test_a_metric_of_one_set_of_examples_is_asked_of_each_resample() -> None:
    outcomes, rows = predictions(1.0).test.outcomes(), np.random.default_rng(0).integers(0, 40, (7, 40))
    resamples = outcomes.take(rows)
    assert isinstance(doubt(resamples), float)  # of all seven together, by itself
    for entry in METRICS.values():
        metric = entry.load()
        assert metric(resamples).tolist() == [metric(outcomes.take(drawn)) for drawn in rows]
