"""What grafts are worth on the validation split, the one that selection may use: its one owner.

Methods that themselves choose by validation ("learned", "paper") look better here than they are.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from graft.evaluate.evaluation import not_finite
from graft.localize.localization import tuned_rows
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model, open_pair
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tasks.vocabulary import make_room


@dataclass(frozen=True)
class OnValidation:
    """The base with the task's head, and the accuracies between which its grafts lie.

    Attributes:
        head: over the base.
        examples: of the validation split.
        batch_size: examples per forward.
        base, tuned: accuracy of both models, 0 to 1; per token from the lm head.
    """

    head: Head
    examples: list[Example]
    batch_size: int
    base: float
    tuned: float

    @classmethod
    def open(cls, base: Model, tuned: Model, task: Task, batch_size: int, runtime: Runtime = DEFAULT) -> OnValidation:
        """Measure both models, one after the other, and keep the base at hand.

        Raises:
            MismatchError, CheckpointError, DataError, ConfigError: an input is refused; it says why.
        """
        examples = task.validation_examples()
        forward = dataclasses.replace(runtime, gradient_checkpointing=False)
        pair = open_pair(base, tuned)
        after = _accuracy(open_head(pair.tuned, task.spec, forward), examples, batch_size)
        rows = tuned_rows(pair, task)
        head = open_head(pair.base, task.spec, forward, seed=task.spec.seed, rows=rows)
        return cls(head, examples, batch_size, _accuracy(head, examples, batch_size), after)

    def measure(self, patch: Patch) -> float:
        """Return the accuracy of the base with the patch on it, which is taken off again.

        Raises:
            PatchMismatchError, CheckpointError: the patch does not fit, or the graft's outputs are not finite.
        """
        make_room(self.head, [patch])
        with apply_patch(self.head.model, patch):
            return _accuracy(self.head, self.examples, self.batch_size)


def _accuracy(head: Head, examples: list[Example], batch_size: int) -> float:
    accuracy = head.accuracy(examples, batch_size=batch_size, label="validation")  # without writing answers out
    if math.isnan(accuracy):
        raise not_finite("validation")
    return accuracy
