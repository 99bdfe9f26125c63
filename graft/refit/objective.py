"""What a refit minimizes: the divergence from the tuned model's outputs, mixed with the labels' loss where asked for.

For an example (or, of a language model, a token) with the teacher's probabilities p and the student's q,

    loss = (1 - labels) * KL(p || q) + labels * CE(label, q),    KL(p || q) = sum_c p_c (ln p_c - ln q_c),

in nats, averaged over the examples. The temperature of distillation (Hinton et al. 2015, arXiv 1503.02531) is 1, so
that the student's confidence is fitted as well: a KL of 0 is the tuned model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graft.errors import CheckpointError
from graft.refit.teacher import Teacher
from graft.tasks.examples import Example
from graft.tasks.head import Head


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a student.

    Attributes:
        head: over the student.
        teacher: the tuned model's outputs.
        labels: weight of the labels' cross-entropy, 0 to 1; the rest is the divergence's.
    """

    head: Head
    teacher: Teacher
    labels: float = 0.0

    def __call__(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean loss in nats, a scalar; gradients flow."""
        if self.labels == 1:
            return self.head.loss(examples)
        kl = self.divergence(examples)
        return kl if self.labels == 0 else (1 - self.labels) * kl + self.labels * self.head.loss(examples)

    def divergence(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean of KL(teacher || student) in nats, a scalar; gradients flow.

        Raises:
            CheckpointError: the tuned model predicts other tokens than the student, or as many from another vocabulary.
        """
        outputs = self.head.outputs(examples)
        teacher = self.teacher.logits(examples).to(outputs.logits.device)
        if teacher.shape != outputs.logits.shape:
            raise CheckpointError(
                f"the tuned model's outputs are {tuple(teacher.shape)} for texts of which the base's are "
                f"{tuple(outputs.logits.shape)}: its tokenizer or vocabulary is another, and no output can be compared"
            )
        return (divergences(teacher, outputs.logits) * outputs.shares).sum()


def divergences(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return (m,) KL(teacher || student) in nats of (m, width) logits; -inf in both is a choice that a row lacks."""
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
