"""Classification: the logits of many requests' texts, each row with its own skills and its own task's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graft.errors import DataError
from graft.server.batching import Row, embed_rows
from graft.server.refusal import Refusal
from graft.server.resident import Names, Resident
from graft.tasks.batches import Texts
from graft.tasks.examples import NONE_OF_THESE, Example
from graft.tasks.head import Head
from graft.tasks.heads.similarity import SCALE, SimilarityHead

MOST_KEPT = 2048  # tasks' label texts, as embedded with one set of skills


@dataclass(frozen=True)
class Question:
    """One text that is to get a label.

    Attributes:
        texts: one, or a pair.
        skills: what it is read with.
        task: the skill whose labels are asked for.
    """

    texts: Texts
    skills: Names
    task: str


@dataclass
class Classifier:
    """The labels of texts, by the heads of a resident model.

    What depends on skill and task alone, the embeddings of label texts, is computed once and kept.
    """

    resident: Resident
    _labels: dict[tuple[Names, str], torch.Tensor] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Forget what was computed with a skill."""
        self._labels = {key: value for key, value in self._labels.items() if name not in (*key[0], key[1])}

    def logits(self, questions: Sequence[Question]) -> list[torch.Tensor]:
        """Return (n_labels,) fp32 logits of every question, on the CPU.

        Raises:
            Refusal: a skill has no head, or a text is a pair where one text is asked for.
        """
        heads = {name: self.resident.head_of(name) for name in {question.task for question in questions}}
        for question in questions:
            _require_arity(question, heads[question.task])
        logits: list[torch.Tensor | None] = [None] * len(questions)
        for own, compute in self._groups(questions, heads):
            for i, row in zip(own, compute([questions[i] for i in own]), strict=True):
                if not row.isfinite().all():
                    raise DataError("the model's outputs on these texts are not finite")
                logits[i] = row
        return [row for row in logits if row is not None]

    def _groups(self, questions: Sequence[Question], heads: dict[str, Head]) -> list[tuple[list[int], Any]]:
        """Return positions of questions that one forward pass takes, and what computes their logits."""
        groups: dict[object, tuple[list[int], Any]] = {}
        for i, question in enumerate(questions):
            head = heads[question.task]
            if not isinstance(head, SimilarityHead):  # a classifier's or verbalizer's rows, whatever their skills
                key, compute = question.task, _compute_with(self.resident, head)
            elif head.task.head.completes_pairs:
                key, compute = question.task, lambda own, head=head: self._of_pairs(own, head)
            else:
                key, compute = "similarity", self._of_texts
            groups.setdefault(key, ([], compute))[0].append(i)
        return list(groups.values())

    def _of_texts(self, questions: Sequence[Question]) -> list[torch.Tensor]:
        """Embed the texts of all tasks together, and compare each with its own task's label texts."""
        heads = [self.resident.head_of(question.task) for question in questions]
        rows = [
            Row(_encode(head, question.texts), question.skills) for head, question in zip(heads, questions, strict=True)
        ]
        vectors = embed_rows(self.resident, rows)
        return [
            SCALE * self._label_vectors(question) @ vector for question, vector in zip(questions, vectors, strict=True)
        ]

    def _label_vectors(self, question: Question) -> torch.Tensor:
        """Return (n_labels, width) fp32: a task's label texts as the row's skills embed them."""
        key = (question.skills, question.task)
        if key not in self._labels:
            if len(self._labels) >= MOST_KEPT:
                self._labels.pop(next(iter(self._labels)))
            head = self.resident.head_of(question.task)
            assert isinstance(head, SimilarityHead)
            rows = [Row(_encode(head, text), question.skills) for text in head.label_texts]
            self._labels[key] = embed_rows(self.resident, rows)
        return self._labels[key]

    def _of_pairs(self, questions: Sequence[Question], head: SimilarityHead) -> list[torch.Tensor]:
        """Compare first texts with what the second would be under each label."""
        rows = []
        for question in questions:
            completed = head.label_texts_for(question.texts[1])
            rows += [Row(_encode(head, text), question.skills) for text in [question.texts[:1], *completed]]
        vectors = embed_rows(self.resident, rows)
        vectors = vectors.reshape(len(questions), -1, vectors.shape[-1])  # (n, 1 + n_labels, width)
        return list(SCALE * (vectors[:, 1:] * vectors[:, :1]).sum(-1))


def _compute_with(resident: Resident, head: Head) -> Any:
    """Return what runs a head that reads its logits off one forward pass."""

    def compute(questions: Sequence[Question]) -> list[torch.Tensor]:
        order = sorted(range(len(questions)), key=lambda i: sum(map(len, questions[i].texts)))
        logits: dict[int, torch.Tensor] = {}
        n = resident.limits.batch_rows
        for batch in (order[start : start + n] for start in range(0, len(order), n)):
            batch = sorted(batch, key=lambda i: questions[i].skills)
            examples = [Example(questions[i].texts, NONE_OF_THESE) for i in batch]
            with head.evaluating(), resident.mixed.skills([questions[i].skills for i in batch]):
                logits |= dict(zip(batch, head.logits(examples).float().cpu(), strict=True))
        return [logits[i] for i in range(len(questions))]

    return compute


def _encode(head: Head, texts: Texts) -> list[int]:
    return [int(token) for token in head.tokenize([texts])["input_ids"][0]]


def _require_arity(question: Question, head: Head) -> None:
    wanted = 1 if isinstance(head.task.text, str) else 2
    if len(question.texts) != wanted:
        kind = "one text" if wanted == 1 else "a pair of texts"
        raise Refusal(400, f"skill {question.task!r} reads {kind}, and was given {len(question.texts)}")
