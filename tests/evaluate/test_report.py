from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import Prediction, Predictions
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.registry import METRICS
from graft.evaluate.report import Report, measure


def predict(n: int, seed: int, novel: int = 0, classes: int = 3) -> Prediction:
    draws = np.random.default_rng(seed)
    labels = np.concatenate([draws.integers(0, classes, n), np.full(novel, -1)])
    return Prediction(np.log(draws.dirichlet(np.ones(classes), n + novel)), labels)


def test_a_report_holds_every_metric_with_its_interval() -> None:
    outcomes = predict(60, 0).outcomes()
    report = measure(outcomes, draws=200)
    assert report.n == 60
    assert set(report.metrics) == set(report.ci) == set(METRICS)
    assert report["accuracy"] == accuracy(outcomes)
    for name, (low, high) in report.ci.items():
        assert METRICS[name].limits[0] <= low <= high <= METRICS[name].limits[1]
    assert 0 < report.ece_floor < 0.2
    assert measure(outcomes, draws=200) == report


def test_the_json_is_the_contract_s() -> None:
    predictions = Predictions(predict(40, 0), {"shifted": predict(30, 1, novel=7)})
    result = predictions.report().to_json()
    plain = {"n", "accuracy", "f1", "nll", "brier", "ece", "ece_mass", "ece_debiased", "mce", "ece_floor"}
    assert set(result) == plain | {"ci", "ood"}
    assert set(result["ood"]["shifted"]) == plain | {"ci", "n_none"}
    assert all(type(result[key]) is float for key in plain - {"n"})
    assert (type(result["n"]), result["n"]) == (int, 40)
    assert all(type(ends) is list and len(ends) == 2 for ends in result["ci"].values())
    assert (result["ood"]["shifted"]["n"], result["ood"]["shifted"]["n_none"]) == (30, 7)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_what_was_compared_is_added_and_left_out_where_it_was_not() -> None:
    outcomes = predict(10, 0).outcomes()
    base = measure(outcomes, draws=10)
    related = Report(base.n, base.metrics, base.ci, base.ece_floor, agreement=0.5, recovered_gain=-2.0, lost_gain=3.0)
    assert related.to_json()["agreement"] == 0.5
    assert related.to_json()["recovered_gain"] == -2.0
    assert related.to_json()["lost_gain"] == 3.0
    assert {"agreement", "recovered_gain", "lost_gain", "n_none", "ood"}.isdisjoint(base.to_json())


def test_detection_stands_with_its_set_which_may_have_no_other_figures() -> None:
    report = Predictions(predict(40, 0), {"shifted": predict(30, 1, novel=7)}).report()
    figures = {"msp": {"auroc": 0.5}, "n_out": 7}
    found = dataclasses.replace(report, detection={"shifted": figures, "novel": figures}).to_json()["ood"]
    assert found["shifted"] == report.to_json()["ood"]["shifted"] | {"detection": figures}
    assert found["novel"] == {"n": 0, "n_none": 7, "detection": figures}


def test_rows_of_no_known_class_are_left_out_of_the_figures() -> None:
    known = predict(50, 3)
    more = Prediction(
        np.concatenate([known.logits, np.eye(3)[[0, 1]]]), np.concatenate([known.labels, np.array([-1, -1])])
    )
    assert Predictions(more).report().metrics == Predictions(known).report().metrics
    assert Predictions(more).report().n_none == 2


def test_a_set_of_novel_classes_alone_has_no_report() -> None:
    predictions = Predictions(predict(20, 0), {"novel": predict(0, 1, novel=9), "shifted": predict(20, 2)})
    assert list(predictions.labeled()) == ["test", "shifted"]
    assert list(predictions.report().ood) == ["shifted"]


def test_one_example_and_certain_answers_still_give_numbers() -> None:
    for p in ([[1.0, 0.0]], [[0.0, 1.0]]):
        report = measure(Outcomes.from_probabilities(p, [0]), draws=20)
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert report["nll"] == pytest.approx(0 if p[0][0] else -math.log(1e-12))
