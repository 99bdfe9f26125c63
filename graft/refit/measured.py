"""The measures on validation by which a refit chooses its epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from graft.refit.mixture import MixedObjective
from graft.refit.objective import Objective, divergences
from graft.refit.teacher import BATCH_SIZE, RecordedTeacher, ResidentTeacher, Teacher
from graft.specs.refit import Criterion
from graft.tasks.examples import NONE_OF_THESE, Example, sort_by_length
from graft.tasks.head import Head


@dataclass(frozen=True)
class Measured:
    """A student on validation.

    Attributes:
        kl: mean KL(teacher || student), nats.
        nll: mean loss of the labels, nats; None where the examples have none.
        accuracy: 0 to 1; None without labels; of predicted tokens, whose accuracy takes passes of its own or writing,
            that of the base, of the kept values and of the tuned model alone.
    """

    kl: float
    nll: float | None = None
    accuracy: float | None = None

    def by(self, criterion: Criterion) -> float:
        """Return the measure of a name; the KL stands in for a loss that is not known. NaN counts as infinite."""
        value = self.nll if criterion == "nll" and self.nll is not None else self.kl
        return math.inf if math.isnan(value) else value


def measure(objective: Objective | MixedObjective, examples: Sequence[Example]) -> Measured:
    """Measure a student, in evaluation mode and without gradients; every example has the same weight.

    Of a mixture the KL is the weighted sum of its parts'.
    """
    if isinstance(objective, MixedObjective):
        return Measured(objective.measure(examples, BATCH_SIZE))
    if objective.head.predicts_tokens:
        return _measure_tokens(objective, examples)
    logits = objective.head.predict(examples, batch_size=BATCH_SIZE, label="validation")
    kl = float(divergences(objective.teacher.logits(examples), logits).double().mean())
    return measure_logits(logits, kl, examples)


def measure_teacher(teacher: Teacher | None, examples: Sequence[Example]) -> Measured | None:
    """Measure a teacher whose outputs were recorded; None for one that predicts tokens, or for none."""
    return measure_logits(teacher.logits(examples), 0.0, examples) if isinstance(teacher, RecordedTeacher) else None


def measure_resident(teacher: ResidentTeacher, examples: Sequence[Example]) -> Measured:
    """Measure a teacher that predicts tokens, its accuracy too."""
    nll = _mean_over_batches(teacher.head, examples, teacher.head.loss)
    return add_accuracy(Measured(0.0, nll), teacher.head, examples)


def add_accuracy(measured: Measured, head: Head, examples: Sequence[Example]) -> Measured:
    """Return a measure of predicted tokens with the accuracy of a head, which is left out where it is no number."""
    accuracy = head.accuracy(examples, batch_size=BATCH_SIZE, label="validation")
    return measured if math.isnan(accuracy) else dataclasses.replace(measured, accuracy=accuracy)


def measure_logits(logits: torch.Tensor, kl: float, examples: Sequence[Example]) -> Measured:
    """Measure (n, n_labels) logits on the CPU by the labels of those examples that have one."""
    labels = torch.tensor([example.label for example in examples])
    known = labels != NONE_OF_THESE
    if not known.any():
        return Measured(kl)
    logits, labels = logits[known].double(), labels[known]
    nll = float(torch.nn.functional.cross_entropy(logits, labels))
    return Measured(kl, nll, float((logits.argmax(-1) == labels).double().mean()))


def _measure_tokens(objective: Objective, examples: Sequence[Example]) -> Measured:
    """Measure next tokens, or those of answers."""
    kl, nll = (_mean_over_batches(objective.head, examples, of) for of in (objective.divergence, objective.head.loss))
    return Measured(kl, nll)


def _mean_over_batches(
    head: Head, examples: Sequence[Example], measure_batch: Callable[[Sequence[Example]], torch.Tensor]
) -> float:
    """Return a mean over examples, a batch of similar length at a time; of several processes each takes some."""
    ordered = sort_by_length(examples)
    batches = [ordered[start : start + BATCH_SIZE] for start in range(0, len(ordered), BATCH_SIZE)]
    with head.evaluating():
        shares = [head.share(batch, ordered) * float(measure_batch(batch)) for batch, _ in head.ranks.shard(batches)]
    return float(sum(head.ranks.collect(shares, len(batches))))
