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
from graft.tasks.padded_logits import are_finite, pad_rows

BATCH_SIZE = 64  # of what is recorded and of what is measured against it


class Teacher(ABC):
    """The outputs of a tuned model."""

    @abstractmethod
    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return (m, width) fp32 logits, in the order of the rows of `Head.outputs`, without gradients."""


class RecordedTeacher(Teacher):
    """Logits that were computed once: n_labels numbers per example.

    A model's logits depend in their last bits on what shares the batch. Each set goes through the model by itself, as
    it will be measured, so that a student of the teacher's own weights is at a divergence of 0.

    Args:
        head: over the tuned model, which is not held.
        sets: all that will be asked for, those to measure on last.

    Raises:
        CheckpointError: an output is not finite.
    """

    def __init__(self, head: Head, *sets: Sequence[Example]) -> None:
        self._rows: dict[Example, torch.Tensor] = {}
        for examples in filter(None, sets):
            logits = head.predict(examples, batch_size=BATCH_SIZE, label="tuned model")
            if not are_finite(logits, examples):
                raise CheckpointError("the tuned model's outputs are not finite: nothing can be fitted to them")
            self._rows |= {example: _own(row, example) for example, row in zip(examples, logits, strict=True)}

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the recorded rows, as wide as the widest row of choices among these examples."""
        rows = [self._rows[example] for example in examples]
        return pad_rows(torch.cat(rows), list(map(len, rows)))


class ResidentTeacher(Teacher):
    """A tuned model that stays in memory, under its head."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Run the model."""
        with self.head.evaluating():
            logits = self.head.outputs(examples).logits
        return logits.clone()  # a tensor made in inference mode takes no part in gradients


def make_teacher(head: Head, *sets: Sequence[Example]) -> Teacher:
    """Return the teacher that a head is best served by; the sets are those of `RecordedTeacher`."""
    return ResidentTeacher(head) if head.predicts_tokens else RecordedTeacher(head, *sets)


def _own(row: torch.Tensor, example: Example) -> torch.Tensor:
    """Return the logits of an example's own choices, without those that pad its row to another's."""
    return row[: len(example.choices)] if example.choices else row
