from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from graft.errors import DataError
from graft.evaluate import temperature
from graft.evaluate.calibration import expected_calibration_error, negative_log_likelihood
from graft.evaluate.evaluation import Prediction, Predictions, predict_examples
from graft.evaluate.temperature import (
    COLDEST,
    HOTTEST,
    fit_temperature,
    fit_token_temperature,
    scale_logits,
    scale_predictions,
)
from graft.specs.head import HeadSpec
from graft.tasks import loading
from graft.tasks.examples import Example
from graft.tasks.heads.completion import CompletionHead
from graft.tasks.heads.lm import LanguageModelHead
from tests.chat_models import answer_examples, completion_head
from tests.models import toy_spec


def calibrated(n: int, seed: int, classes: int = 3, spread: float = 2.0) -> Prediction:
    """Labels drawn from the softmax of the logits themselves."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, classes))
    p = Prediction(logits, np.zeros(n, dtype=int)).probabilities
    return Prediction(logits, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1))


def nll(prediction: Prediction) -> float:
    return negative_log_likelihood(prediction.outcomes())


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_factor_of_overconfidence_is_found_and_undone(factor: float) -> None:
    honest = calibrated(20_000, 0)
    overdone = scale_logits(honest, 1 / factor)
    temperature = fit_temperature(overdone)
    assert temperature == pytest.approx(factor, rel=0.04)
    before, after = (expected_calibration_error(item.outcomes()) for item in (overdone, scale_logits(overdone, factor)))
    assert after < 0.015
    assert factor == 1 or before > 0.1


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0.2, 8))
def test_no_other_temperature_has_a_smaller_nll(seed: int, classes: int, factor: float) -> None:
    prediction = scale_logits(calibrated(60, seed, classes), 1 / factor)
    found = fit_temperature(prediction)
    best = minimize_scalar(
        lambda log_t: nll(scale_logits(prediction, float(np.exp(log_t)))),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
    )
    assert nll(scale_logits(prediction, found)) <= best.fun + 1e-7
    grid = [nll(scale_logits(prediction, t)) for t in (found * 0.9, found, found * 1.1)]
    assert grid[1] <= min(grid[0], grid[2]) + 1e-12 or found in (COLDEST, HOTTEST)


def test_predictions_stay_and_every_set_is_scaled_alike() -> None:
    test, far = calibrated(200, 1), calibrated(50, 2)
    scaled = scale_predictions(Predictions(test, {"far": far}), 2.5)
    for before, after in ((test, scaled.test), (far, scaled.ood["far"])):
        np.testing.assert_array_equal(after.outcomes().predicted, before.outcomes().predicted)
        assert (after.outcomes().confidence < before.outcomes().confidence).all()
        assert after.labels is before.labels


def test_rows_that_were_cut_are_counted_of_the_scaled_model_too() -> None:
    prediction = Prediction(np.eye(2), np.array([0, 1]), n_cut=1)
    assert Predictions(scale_logits(prediction, 2.0)).report().n_cut == 1


def test_a_faultless_model_stays_as_it_is_and_a_useless_one_is_heated_to_the_end() -> None:
    labels = np.arange(30) % 3
    right = Prediction(np.eye(3)[labels], labels)
    assert fit_temperature(right) == 1
    assert nll(scale_logits(right, COLDEST)) < nll(right)  # by its own rows, which say nothing of others
    wrong = Prediction(right.logits, np.append(labels[:-1], (labels[-1] + 1) % 3))
    assert COLDEST < fit_temperature(wrong) < 1
    assert fit_temperature(Prediction(-right.logits, labels)) == HOTTEST


def test_rows_of_no_class_and_labels_that_a_row_lacks_take_no_part() -> None:
    known = calibrated(300, 3)
    more = Prediction(np.vstack([known.logits, np.full((5, 3), 9.0)]), np.append(known.labels, [-1] * 5))
    assert fit_temperature(more) == fit_temperature(known)
    fewer = Prediction(np.hstack([known.logits, np.full((300, 1), -np.inf)]), known.labels)
    assert fit_temperature(fewer) == pytest.approx(fit_temperature(known), rel=1e-12)
    with pytest.raises(DataError, match=r"fitted on labeled examples, and there are none"):
        fit_temperature(Prediction(np.eye(2), np.array([-1, -1])))


def heads() -> list[tuple[LanguageModelHead | CompletionHead, list[Example]]]:
    answers = completion_head(steps=60)
    texts = [Example((text,), 0) for text in ("he saw a red dog", "it was late", "we met him there again")]
    return [
        (answers, answer_examples(24, seed=5)),
        (LanguageModelHead(answers.model, answers.tokenizer, toy_spec(labels=(), head=HeadSpec("lm"))), texts),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_no_other_temperature_of_tokens_has_a_smaller_nll(which: int) -> None:
    head, examples = heads()[which]

    def measure(temperature: float) -> Prediction:
        return predict_examples(head, examples, 8, "validation", temperature)

    found = fit_token_temperature(head, examples, 8)
    assert abs(np.log(found)) > 0.05  # there is something to mend
    best = minimize_scalar(lambda log_t: nll(measure(float(np.exp(log_t)))), bounds=(-1.3, 2), method="bounded")
    assert nll(measure(found)) <= best.fun + 1e-3
    plain, scaled = measure(1.0).outcomes(), measure(found).outcomes()
    assert (plain.predicted == scaled.predicted).all()
    assert not np.allclose(plain.confidence, scaled.confidence)


@pytest.mark.parametrize("factor", [2, 1 / 16, 16])  # the last two lead out of the usual temperatures
def test_a_factor_of_the_logits_is_found_again(factor: float, capsys: pytest.CaptureFixture[str]) -> None:
    head, examples = heads()[0]
    before = fit_token_temperature(head, examples, 8)
    with torch.no_grad():
        head.model.get_output_embeddings().weight.mul_(factor)
    assert fit_token_temperature(head, examples, 8) == pytest.approx(factor * before, rel=0.01)
    assert "without a fault" not in capsys.readouterr().err


def test_tokens_without_a_fault_say_nothing_of_a_temperature(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    head, examples = heads()[0]
    for of_cold, found in ((1.0, 1.0), (-1.0, HOTTEST)):  # an NLL that falls with T, and one that rises
        monkeypatch.setattr(temperature, "nll_at", lambda *arguments, **_: of_cold * np.array(arguments[2]))  # noqa: B023
        assert fit_token_temperature(head, examples, 8) == pytest.approx(found)
        assert capsys.readouterr().err.count("without a fault") == (found == 1)
