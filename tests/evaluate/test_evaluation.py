from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from graft.errors import CheckpointError, DataError, PatchMismatchError
from graft.evaluate.bootstrap import bootstrap_metrics
from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import Prediction, evaluate_task, predict_task
from graft.localize.diff import diff_checkpoints
from graft.patch.live import apply_patch
from graft.tasks.head import open_head
from graft.tasks.heads.lm import TokenColumns
from graft.tasks.task import Task
from tests.checkpoints import bits_of
from tests.models import WORDS, copy_with, write_base, write_causal, write_task


def test_accuracy_is_the_share_of_right_rows(tuned: Path, task: Task) -> None:
    head = open_head(tuned, task.spec)
    examples = task.test_examples()
    with torch.no_grad():
        right = [head.logits([example]).argmax().item() == example.label for example in examples]
    report = evaluate_task(tuned, task)
    assert report["accuracy"] == np.mean(right)
    assert (report.n, report.ood["meals"].n, report.ood["meals"].n_none) == (80, 40, 1)
    assert set(report.ood) == {"meals"}  # the novel rows have no accuracy


def test_figures_do_not_depend_on_the_batch_size(tuned: Path, task: Task) -> None:
    one, many = (evaluate_task(tuned, task, batch_size=size) for size in (7, 64))
    assert one.metrics == pytest.approx(many.metrics, abs=1e-5)


def test_a_limit_takes_the_first_rows_of_every_set(tuned: Path, task: Task) -> None:
    report = evaluate_task(tuned, task, limit=10)
    assert (report.n, report.ood["meals"].n) == (10, 10)


def test_a_patch_of_every_change_evaluates_as_the_tuned_model(base: Path, tuned: Path, task: Task) -> None:
    patch = diff_checkpoints(base, tuned)
    assert evaluate_task(base, task) != evaluate_task(tuned, task)
    assert evaluate_task(base, task, patches=(patch,)) == evaluate_task(tuned, task)


def test_the_model_is_as_before_once_a_patch_was_evaluated(base: Path, tuned: Path, task: Task) -> None:
    head = open_head(base, task.spec)
    before, probabilities = bits_of(head.model), predict_task(head, task).test.probabilities
    with apply_patch(head.model, diff_checkpoints(base, tuned)):
        assert not np.array_equal(predict_task(head, task).test.probabilities, probabilities)
    assert bits_of(head.model) == before
    assert np.array_equal(predict_task(head, task).test.probabilities, probabilities)


def test_what_cannot_be_evaluated_is_refused(base: Path, tuned: Path, task: Task, tmp_path: Path) -> None:
    patch = diff_checkpoints(base, tuned)
    other = write_base(tmp_path / "other", seed=5, steps=1)
    with pytest.raises(PatchMismatchError, match=r"does not fit BertModel: tensor '.*are not the base's"):
        evaluate_task(other, task, patches=(patch,))
    holed = copy_with(tuned, tmp_path / "nan", lambda _, w: w.view(-1)[:1].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"test: the model's outputs are not finite"):
        evaluate_task(holed, task)
    with pytest.raises(DataError, match=r"no example of the set has one of the task's labels"):
        Prediction(np.eye(2), np.array([-1, -1])).outcomes()
    gone = Task.load(write_task(tmp_path / "toy", ood={"gone": "gone.jsonl"}))
    with pytest.raises(DataError, match=r"gone.jsonl: cannot be read"):
        evaluate_task(tuned, gone)


def test_a_label_without_any_example_still_takes_part(base: Path, task: Task) -> None:
    spec = dataclasses.replace(
        task.spec, labels=("sad", "glad", "calm"), head=dataclasses.replace(task.spec.head, texts=None)
    )
    report = evaluate_task(base, dataclasses.replace(task, spec=spec))
    assert 0 <= report["accuracy"] <= 1


def test_probabilities_are_the_softmax_of_the_logits_and_of_the_choices_that_a_row_has() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [800.0, 0.0, -800.0], [0.0, 0.0, -np.inf]])
    found = Prediction(logits, np.array([2, 0, 1]))
    np.testing.assert_allclose(found.probabilities[0], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())
    np.testing.assert_allclose(found.probabilities[1:], [[1, 0, 0], [0.5, 0.5, 0]])
    assert found.outcomes().correct.tolist() == [True, True, False]


def texts_task(folder: Path) -> Task:
    path = write_task(folder, head={"kind": "lm"}, labels=[], ood={"meals": "meals.jsonl"})
    return Task.load(path)


def test_a_language_model_is_measured_by_token_with_intervals_over_texts(tmp_path: Path) -> None:
    task = texts_task(tmp_path / "texts")
    head = open_head(write_causal(tmp_path / "causal"), task.spec)
    found = predict_task(head, task)
    tokens = found.test.columns
    assert tokens is not None
    assert (found.test.logits.shape, len(found.test.labels)) == ((80, 0), 80)
    report = found.report()
    assert report.n == len(tokens.label) > 400
    assert report["perplexity"] == pytest.approx(np.exp(-tokens.log_likelihood.mean()))
    assert report["accuracy"] == (tokens.predicted == tokens.label).mean()
    assert report.ood["meals"]["perplexity"] < len(WORDS)  # it has read, and so does better than one in all words
    low, high = report.ci["perplexity"]
    assert (np.log(low), np.log(high)) == pytest.approx(report.ci["nll"])
    assert low < report["perplexity"] < high
    assert report.to_json()["ood"]["meals"]["ci"]["perplexity"]


def test_texts_of_one_kind_count_as_few_however_many_tokens_they_have() -> None:
    """Ten texts, each right throughout or wrong throughout: by token the interval would be ten times too narrow."""
    group = np.repeat(np.arange(10), 100)
    label = np.zeros(1000, dtype=np.int64)
    predicted = (group % 2).astype(np.int64)
    half = np.full(1000, 0.5)
    tokens = TokenColumns(label, predicted, half, np.log(half), half, group, 2)
    outcomes = Prediction(np.empty((10, 0)), np.zeros(10, dtype=np.int64), tokens).outcomes()
    by_text, by_token = (
        bootstrap_metrics(item, {"accuracy": accuracy}, draws=300)["accuracy"]
        for item in (outcomes, dataclasses.replace(outcomes, group=None))
    )
    assert by_token[1] - by_token[0] == pytest.approx(2 * 1.96 * 0.5 / 1000**0.5, rel=0.25)
    assert by_text[1] - by_text[0] == pytest.approx(2 * 1.96 * 0.5 / 10**0.5, rel=0.25)


def test_a_language_model_with_nan_is_refused(tmp_path: Path) -> None:
    task = texts_task(tmp_path / "texts")
    head = open_head(write_causal(tmp_path / "causal", steps=1), task.spec)
    assert predict_task(head, task)
    with torch.no_grad():
        head.model.model.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"test: the model's outputs are not finite"):
        predict_task(head, task)
