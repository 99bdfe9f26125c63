"""Evaluation of a model on a task: test split and out-of-distribution sets through the same head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graft.arguments import checked
from graft.errors import CheckpointError, DataError
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.report import Report, measure
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model, OpenModel, open_model, refuse_idle_base, refuse_idle_tokenizer
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.answer_columns import AnswerColumns
from graft.tasks.cuts import tell_cut
from graft.tasks.examples import NONE_OF_THESE, Example
from graft.tasks.head import Head, open_head
from graft.tasks.heads.completion import CompletionHead
from graft.tasks.heads.lm import LanguageModelHead, TokenColumns
from graft.tasks.label_order import rows_in
from graft.tasks.padded_logits import are_finite
from graft.tasks.task import Task
from graft.tasks.vocabulary import make_room


@dataclass(frozen=True)
class Prediction:
    """A model's logits on one set.

    Attributes:
        logits: (n, n_labels) float64; -inf where a row has no such label, as where it has fewer choices; (n, 0)
            for heads that predict tokens, which have no labels.
        labels: (n,) int64, -1 for a class that the task lacks.
        columns: results of every token of the texts, from the lm head, or of every answer, from the completion head.
        n_cut: examples of which the model read only a part, since they are too long.
    """

    logits: np.ndarray
    labels: np.ndarray
    columns: TokenColumns | AnswerColumns | None = None
    n_cut: int = 0

    @property
    def probabilities(self) -> np.ndarray:
        """(n, n_labels) float64, softmax of the logits."""
        powers = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)

    def outcomes(self) -> Outcomes:
        """Return per-example results on the examples whose label is one of the task's; per token from the lm head.

        Raises:
            DataError: there is none.
        """
        if self.columns is not None:
            return Outcomes(**vars(self.columns))
        is_known = self.labels != NONE_OF_THESE
        if not is_known.any():
            raise DataError("no example of the set has one of the task's labels")
        return Outcomes.from_probabilities(self.probabilities[is_known], self.labels[is_known])


@dataclass(frozen=True)
class Predictions:
    """A model's predictions on the test split and on each out-of-distribution set."""

    test: Prediction
    ood: Mapping[str, Prediction] = field(default_factory=dict)

    def labeled(self) -> dict[str, Prediction]:
        """Return the sets that have accuracy, "test" first; one that holds only novel classes has none."""
        with_labels = {name: item for name, item in self.ood.items() if (item.labels != NONE_OF_THESE).any()}
        return {"test": self.test, **with_labels}

    def report(self) -> Report:
        """Measure every set that has accuracy."""
        reports = {name: _measure_set(item) for name, item in self.labeled().items()}
        return dataclasses.replace(reports.pop("test"), ood=reports)


@checked
def evaluate_task(
    model: Model,
    task: Task,
    *,
    patches: tuple[Patch, ...] = (),
    adapter_base: Model | None = None,
    tokenizer: Any = None,
    limit: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
) -> Report:
    """Evaluate a model, with patches grafted on, on a task's test split and out-of-distribution sets.

    Args:
        model: a local folder, the embedded encoder, a Hub id, an adapter's folder or Hub id, or a live model, which is
            read and left as it is (a copy of it runs).
        task: the task.
        patches: applied to the loaded model; all are checked first.
        adapter_base: the base of an adapter; the one that its config names where absent.
        tokenizer: of a live model; where absent, that of the folder which it was loaded from.
        limit: evaluate only the first few examples of each set.
        batch_size: examples per forward.
        device, dtype: device and precision.

    Raises:
        PatchMismatchError, CheckpointError, DataError, ConfigError: an input is refused; the line says which and why.
    """
    refuse_idle_tokenizer(tokenizer, model)
    opened = open_model(model, base=adapter_base, tokenizer=tokenizer)
    refuse_idle_base(adapter_base, opened)
    runtime = Runtime(device, dtype)
    return predict_model(opened, task, patches, limit=limit, batch_size=batch_size, runtime=runtime).report()


def predict_model(
    model: Model | OpenModel,
    task: Task,
    patches: tuple[Patch, ...] = (),
    *,
    limit: int | None = None,
    batch_size: int = 64,
    runtime: Runtime = DEFAULT,
) -> Predictions:
    """Load a model, graft patches onto it, and predict as `predict_task` does; raise as `evaluate_task`."""
    rows = rows_in(patches, task.spec)
    head = open_head(open_model(model).checkpoint, task.spec, runtime, seed=task.spec.seed, rows=rows)
    make_room(head, patches)
    with apply_patch(head.model, *patches):
        return predict_task(head, task, limit=limit, batch_size=batch_size)


def predict_task(
    head: Head, task: Task, *, limit: int | None = None, batch_size: int = 64, temperature: float = 1.0
) -> Predictions:
    """Compute the logits of a loaded model on the test split and the other sets, as `predict_examples`."""
    test = predict_examples(head, task.test_examples(limit), batch_size, "test", temperature)
    ood = {
        name: predict_examples(head, task.ood_examples(name, limit), batch_size, name, temperature)
        for name in task.spec.ood
    }
    return Predictions(test, ood)


def predict_examples(
    head: Head, examples: list[Example], batch_size: int, name: str, temperature: float = 1.0
) -> Prediction:
    """Compute the logits of a loaded model on some examples; the progress bar and the error call them `name`.

    Logits are divided by the temperature.

    Raises:
        CheckpointError: an output is not finite.
    """
    labels = np.array([example.label for example in examples])
    if isinstance(head, LanguageModelHead | CompletionHead):
        columns = head.predict_columns(examples, batch_size=batch_size, label=name, temperature=temperature)
        prediction = Prediction(np.empty((len(examples), 0)), labels, columns, head.count_cut(examples))
        finite = bool(np.isfinite(columns.log_likelihood).all())
    else:
        logits, n_cut = head.predict_counting(examples, batch_size=batch_size, label=name)
        tell_cut(head, n_cut, examples, name)
        prediction = Prediction(logits.double().numpy() / temperature, labels, n_cut=n_cut)
        finite = are_finite(logits, examples)
    if not finite:
        raise not_finite(name)
    return prediction


def not_finite(name: str) -> CheckpointError:
    """Return the error that says of a set that a model's outputs on it are not finite."""
    return CheckpointError(
        f"{name}: the model's outputs are not finite; its weights hold NaN, or overflow in its dtype"
    )


def _measure_set(prediction: Prediction) -> Report:
    report = dataclasses.replace(measure(prediction.outcomes()), n_cut=prediction.n_cut)
    if prediction.columns is not None:
        return _with_token_metrics(report, prediction.columns)
    return dataclasses.replace(report, n_none=int((prediction.labels == NONE_OF_THESE).sum()))


def _with_token_metrics(report: Report, columns: TokenColumns | AnswerColumns) -> Report:
    """Add perplexity, exp of the mean NLL per token: monotone, so that its interval is that of the NLL.

    Of written answers also the share that holds no answer.
    """
    low, high = report.ci["nll"]
    metrics = {**report.metrics, "perplexity": math.exp(report["nll"])}
    if isinstance(columns, AnswerColumns):
        metrics["unanswered"] = columns.unanswered
    return dataclasses.replace(report, metrics=metrics, ci={**report.ci, "perplexity": (math.exp(low), math.exp(high))})
