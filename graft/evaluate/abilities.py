"""Abilities: what a model can do on a task as one number, and the loss that falls as the ability comes back.

A rollback scores entries on one set of examples and measures them on another; which these are, and what the loss aims
at, is the ability's to say. An ability has a reference, the model that has it: the base for what was lost in tuning,
the tuned model for what was learned.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graft.errors import DataError
from graft.evaluate.detection import maximum_probability, measure_auroc
from graft.evaluate.evaluation import predict_examples
from graft.evaluate.registry import METRICS
from graft.scores.gradients import split_examples
from graft.scores.soft_targets import aim_at
from graft.tasks.examples import NONE_OF_THESE, Example, sort_by_length
from graft.tasks.head import Head
from graft.tasks.sharing import share_model
from graft.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Reading:
    """An ability of one model.

    Attributes:
        value: in the ability's metric, on the examples that measure.
        loss: mean loss of the labels, nats, on the examples that score.
        outputs: (n, n_labels) fp32 logits of the same examples; None where only the loss is read.
    """

    value: float
    loss: float
    outputs: torch.Tensor | None


class Ability(ABC):
    """An ability of a model on a task.

    Attributes:
        task: the task.
        metric: its name in `graft.evaluate.registry.RESTORABLE`.
        scored: the examples whose loss scores entries.
        measured: the examples on which the metric is measured, all with labels.

    Args:
        task, metric: as above.
        by_outputs: aim at the outputs of the reference instead of the labels, where the task has labels.
    """

    def __init__(self, task: Task, metric: str, *, by_outputs: bool = True) -> None:
        self.task = task
        self.metric = metric
        self.by_outputs = by_outputs and task.spec.head.entry.has_labels
        self.scored, self.measured = self._split()

    @abstractmethod
    def _split(self) -> tuple[list[Example], list[Example]]:
        """Return the examples that score, and those that measure."""

    @property
    def texts(self) -> Sequence[Example] | None:
        """The texts that values are refit on; None for the task's whole training split."""
        return None

    def on(self, head: Head) -> Head:
        """Return the task's own head over a loaded model."""
        return head if head.task == self.task.spec else share_model(head, self.task.spec)

    def measure(self, head: Head, batch_size: int) -> float:
        """Return the metric of a loaded model.

        Raises:
            CheckpointError: an output is not finite.
        """
        outcomes = predict_examples(self.on(head), self.measured, batch_size, self.task.spec.name).outcomes()
        return float(METRICS[self.metric].load()(outcomes))

    def read(self, head: Head, batch_size: int) -> Reading:
        """Measure a loaded model, and compute its outputs on the examples that score."""
        own, value = self.on(head), self.measure(head, batch_size)
        if not self.by_outputs:
            return Reading(value, _mean_loss(own, self.scored, batch_size), None)
        return Reading(value, 0.0, own.predict(self.scored, batch_size=batch_size, label=self.task.spec.name))

    def targets(self, reference: Reading) -> torch.Tensor | None:
        """Return the (n, n_labels) probabilities that the loss aims at; None for the labels."""
        return None if reference.outputs is None else reference.outputs.softmax(-1)

    def aim(self, head: Head, reference: Reading) -> Head:
        """Return the task's head over a loaded model, with the loss that falls towards the reference."""
        own, targets = self.on(head), self.targets(reference)
        return own if targets is None else aim_at(own, self.scored, targets)

    def gap(self, reference: Reading, other: Reading) -> float:
        """Return how much higher another model's loss is than the reference's, in nats."""
        targets = self.targets(reference)
        if targets is None or reference.outputs is None or other.outputs is None:
            return other.loss - reference.loss
        return _cross_entropy(other.outputs, targets) - _cross_entropy(reference.outputs, targets)


class AccuracyAbility(Ability):
    """Being right: scored on the training examples, measured on validation."""

    def _split(self) -> tuple[list[Example], list[Example]]:
        return self.task.train_examples(), self.task.validation_examples()


class CalibrationAbility(Ability):
    """Stating how sure it is: the labels' loss on a half of validation, since a tuned model knows its training rows."""

    def __init__(self, task: Task, metric: str, *, by_outputs: bool = True) -> None:
        super().__init__(task, metric, by_outputs=False)

    def _split(self) -> tuple[list[Example], list[Example]]:
        return _halve(self.task, self.task.validation_examples(), "examples")


class RefusalAbility(Ability):
    """Being unsure of rows outside all labels: half of them score, towards even probabilities or the reference."""

    def _split(self) -> tuple[list[Example], list[Example]]:
        if not self.task.spec.head.entry.has_labels:
            raise DataError(f"task {self.task.spec.name!r}: a language model refuses nothing; auroc needs labels")
        return _halve(self.task, self.task.outside_examples(), "rows with label -1, in validation or an ood set,")

    @property
    def texts(self) -> Sequence[Example]:
        """The rows outside that score."""
        return self.scored

    def measure(self, head: Head, batch_size: int) -> float:
        """Return the AUROC of the largest probability: validation's rows against those outside."""
        own, name = self.on(head), self.task.spec.name
        sides = (self.task.validation_examples(), self.measured)
        return measure_auroc(
            *(maximum_probability(predict_examples(own, side, batch_size, name).logits) for side in sides)
        )

    def read(self, head: Head, batch_size: int) -> Reading:
        """Measure a loaded model, and compute its outputs on the rows outside that score."""
        outputs = self.on(head).predict(self.scored, batch_size=batch_size, label=self.task.spec.name)
        return Reading(self.measure(head, batch_size), 0.0, outputs)

    def targets(self, reference: Reading) -> torch.Tensor | None:
        """Return the reference's probabilities, or even ones."""
        assert reference.outputs is not None
        outputs = reference.outputs
        even = torch.where(outputs == -torch.inf, outputs, 0.0)  # over the choices that a row has
        return (outputs if self.by_outputs else even).softmax(-1)


def _halve(task: Task, examples: list[Example], what: str) -> tuple[list[Example], list[Example]]:
    """Part examples at random into two halves of as many of each label, up to one.

    The draw goes by the examples' content and their labels' names, whatever the order of rows or of labels.

    Raises:
        DataError: there are fewer than two.
    """
    if len(examples) < 2:
        raise DataError(f"task {task.spec.name!r}: {what} are needed to score and to measure: two at least")

    def name_of(example: Example) -> str:
        """Return the name of the label, or what stands for it where the task has no names."""
        has_name = task.spec.has_classes and example.label != NONE_OF_THESE
        return task.spec.labels[example.label] if has_name else str(example.label)

    # in order of content first: the draw would go by the order in the file otherwise
    ordered = sorted(examples, key=lambda example: (name_of(example), example.texts, example.choices, example.roles))
    generator = np.random.default_rng(task.spec.seed)
    dealt: list[Example] = []
    for _, same in itertools.groupby(ordered, key=name_of):
        pool = list(same)
        dealt += [pool[i] for i in generator.permutation(len(pool))]
    return dealt[::2], dealt[1::2]


def _mean_loss(head: Head, examples: Sequence[Example], batch_size: int) -> float:
    with head.evaluating():
        parts = split_examples(sort_by_length(examples), batch_size)
        return sum(head.loss(part).item() * head.share(part, examples) for part in parts)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    terms = (targets * logits.log_softmax(-1)).masked_fill(targets == 0, 0.0)
    return -float(terms.double().sum(-1).mean())
