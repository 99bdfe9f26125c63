"""What grafts are worth on the validation split, the one that selection may use: its one owner.

Methods that themselves choose by validation ("learned", "paper") look better here than they are.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.evaluate.evaluation import not_finite, predict_examples
from graft.localize.localization import tuned_rows
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model, open_pair
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tasks.vocabulary import make_room


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answers.

    Attributes:
        accuracy: 0 to 1; per token from the lm head.
        right: (n,) fp64, 1 where an example is answered right, else 0; None of heads without labels.
    """

    accuracy: float
    right: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class OnValidation:
    """The base with the task's head, and the accuracies between which its grafts lie.

    Attributes:
        head: over the base.
        examples: of the validation split.
        batch_size: examples per forward.
        of_base, of_tuned: what both models answer.
    """

    head: Head
    examples: list[Example]
    batch_size: int
    of_base: Answers
    of_tuned: Answers

    @classmethod
    def open(cls, base: Model, tuned: Model, task: Task, batch_size: int, runtime: Runtime = DEFAULT) -> OnValidation:
        """Measure both models, one after the other, and keep the base at hand.

        Raises:
            MismatchError, CheckpointError, DataError, ConfigError: an input is refused; it says why.
        """
        examples = task.validation_examples()
        forward = dataclasses.replace(runtime, gradient_checkpointing=False)
        pair = open_pair(base, tuned)
        after = _answer(open_head(pair.tuned, task.spec, forward), examples, batch_size)
        rows = tuned_rows(pair, task)
        head = open_head(pair.base, task.spec, forward, seed=task.spec.seed, rows=rows)
        return cls(head, examples, batch_size, _answer(head, examples, batch_size), after)

    @property
    def base(self) -> float:
        """Accuracy of the base, 0 to 1; per token from the lm head."""
        return self.of_base.accuracy

    @property
    def tuned(self) -> float:
        """Accuracy of the tuned model."""
        return self.of_tuned.accuracy

    def measure(self, patch: Patch) -> float:
        """Return the accuracy of the base with the patch on it, which is taken off again.

        Raises:
            PatchMismatchError, CheckpointError: as `answer`.
        """
        return self.answer(patch).accuracy

    def answer(self, patch: Patch) -> Answers:
        """Return what the base answers with the patch on it, which is taken off again.

        Raises:
            PatchMismatchError, CheckpointError: the patch does not fit, or the graft's outputs are not finite.
        """
        make_room(self.head, [patch])
        with apply_patch(self.head.model, patch):
            return _answer(self.head, self.examples, self.batch_size)


def _answer(head: Head, examples: list[Example], batch_size: int) -> Answers:
    if not head.task.head.entry.has_labels:
        accuracy = head.accuracy(examples, batch_size=batch_size, label="validation")  # without writing answers out
        if math.isnan(accuracy):
            raise not_finite("validation")
        return Answers(accuracy)
    prediction = predict_examples(head, examples, batch_size, "validation")
    right = prediction.logits.argmax(-1) == prediction.labels
    return Answers(float(right.mean()), right.astype(np.float64))
