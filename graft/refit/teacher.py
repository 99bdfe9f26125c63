"""Teachers: the tuned model's outputs, to which values are fitted.

Classes are few, so that the teacher's logits for all texts are computed once and its model is dropped before the
student is loaded. A distribution over a vocabulary for every token is too much to keep: there the teacher stays
resident, and its outputs are computed anew with each batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from graft.errors import CheckpointError
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.padded_logits import are_finite


class Teacher(ABC):
    """The outputs of a tuned model."""

    @abstractmethod
    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return (m, width) fp32 logits, in the order of the rows of `Head.outputs`, without gradients."""


class RecordedTeacher(Teacher):
    """Logits that were computed once: n_labels numbers per example.

    Args:
        head: over the tuned model, which is not held.
        examples: all that will be asked for.

    Raises:
        CheckpointError: an output is not finite.
    """

    def __init__(self, head: Head, examples: Sequence[Example]) -> None:
        unique = list(dict.fromkeys(examples))
        logits = head.predict(unique, label="tuned model")
        if not are_finite(logits, unique):
            raise CheckpointError("the tuned model's outputs are not finite: nothing can be fitted to them")
        self._rows = dict(zip(unique, logits, strict=True))

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the recorded rows, as wide as the widest row of choices among these examples."""
        rows = torch.stack([self._rows[example] for example in examples])
        width = max(len(example.choices) for example in examples)
        return rows[:, :width] if width else rows


class ResidentTeacher(Teacher):
    """A tuned model that stays in memory."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Run the model."""
        with self._head.evaluating():
            logits = self._head.outputs(examples).logits
        return logits.clone()  # a tensor made in inference mode takes no part in gradients


def make_teacher(head: Head, examples: Sequence[Example]) -> Teacher:
    """Return the teacher that a head is best served by."""
    return ResidentTeacher(head) if head.predicts_tokens else RecordedTeacher(head, examples)
