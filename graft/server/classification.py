"""Classification: the logits of many requests' texts, each row with its own skills and its own task's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graft.errors import DataError
from graft.server.batching import Row, embed_rows, make_batches
from graft.server.refusal import Refusal
from graft.server.resident import Names, Resident
from graft.server.skill import Skill
from graft.tasks.batches import Encoded, Texts
from graft.tasks.head import Head
from graft.tasks.heads.similarity import SCALE, SimilarityHead

MOST_KEPT, MOST_BYTES = 2048, 2**28  # tasks' label texts, as embedded with one set of skills; of all their vectors


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a head reads of a text, or of a pair, as tokens.

    Attributes:
        head: which reads.
        rows: the text; of a pair whose second text stands in the label texts, the first and each of these.
        labels: label texts that are the same for every row; None where they need not be embedded, as far as is known.
    """

    head: Head
    rows: list[Encoded]
    labels: list[Encoded] | None = None


@dataclass(frozen=True)
class Question:
    """One text that is to get a label.

    Attributes:
        texts: one, or a pair.
        skills: what it is read with.
        task: the skill whose labels are asked for.
        encoding: what the task's head reads; made when it is asked where it is absent, or another head's.
    """

    texts: Texts
    skills: Names
    task: str
    encoding: Encoding | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What a head says of one text.

    Attributes:
        logits: (n_labels,) fp32, on the CPU.
        is_cut: whether only the beginning of the text, or of one of the pair, was read.
        skill: whose labels these are, as it was then: another may have its name since.
    """

    logits: torch.Tensor
    is_cut: bool
    skill: Skill | None = None


@dataclass
class Classifier:
    """The labels of texts, by the heads of a resident model.

    What depends on skill and task alone, the embeddings of label texts, is computed once and kept.
    """

    resident: Resident
    _labels: dict[tuple[Names, str], torch.Tensor] = field(default_factory=dict)

    def keeps(self, skills: Names, task: str) -> bool:
        """Return whether the label texts of a task, as skills embed them, are kept."""
        return (skills, task) in self._labels

    def forget(self, name: str) -> None:
        """Forget what was computed with a skill."""
        self._labels = {key: value for key, value in self._labels.items() if name not in (*key[0], key[1])}

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answer to every question.

        Raises:
            Refusal: as `require_readable`.
        """
        heads = {question.task: require_readable(self.resident, question) for question in questions}
        answers: dict[int, Answer] = {}
        for own, compute in self._groups(questions, heads):
            answers |= dict(zip(own, compute([questions[i] for i in own]), strict=True))
        if not all(bool(answer.logits.isfinite().all()) for answer in answers.values()):
            raise DataError("the model's outputs on these texts are not finite")
        skills = self.resident.skills
        return [replace(answers[i], skill=skills[question.task]) for i, question in enumerate(questions)]

    def _groups(self, questions: Sequence[Question], heads: dict[str, Head]) -> list[tuple[list[int], Any]]:
        """Return positions of questions that one forward pass takes, and what computes their logits."""
        groups: dict[object, tuple[list[int], Any]] = {}
        for i, question in enumerate(questions):
            head = heads[question.task]
            if not isinstance(head, SimilarityHead):  # a classifier's or verbalizer's rows, whatever their skills
                key, compute = question.task, _compute_with(self.resident, head)
            elif completes_pairs(head):
                key, compute = question.task, lambda own, head=head: self._of_pairs(own, head)
            else:
                key, compute = "similarity", self._of_texts
            groups.setdefault(key, ([], compute))[0].append(i)
        return list(groups.values())

    def _of_texts(self, questions: Sequence[Question]) -> list[Answer]:
        """Embed the texts of all tasks together, and compare each with its own task's label texts."""
        encoded = [_encode(question, self.resident.head_of(question.task))[0] for question in questions]
        vectors = embed_rows(self.resident, _rows(questions, encoded))
        asked = {(question.skills, question.task): question for question in questions}
        labels = {key: self._label_vectors(question) for key, question in asked.items()}
        return [
            Answer(SCALE * labels[question.skills, question.task] @ vector, item.is_cut)
            for question, vector, item in zip(questions, vectors, encoded, strict=True)
        ]

    def _label_vectors(self, question: Question) -> torch.Tensor:
        """Return (n_labels, width) fp32: a task's label texts as the row's skills embed them."""
        key = (question.skills, question.task)
        if key not in self._labels:
            head = self.resident.head_of(question.task)
            assert isinstance(head, SimilarityHead)
            known = _known(question, head)
            encoded = head.encode(head.label_texts) if known is None or known.labels is None else known.labels
            vectors = embed_rows(self.resident, _rows([question] * len(encoded), encoded))
            self._make_room(vectors.nbytes)
            self._labels[key] = vectors
        return self._labels[key]

    def _make_room(self, n_bytes: int) -> None:
        """Drop what was embedded longest ago, as far as other vectors need its place."""
        kept = sum(vectors.nbytes for vectors in self._labels.values())
        while self._labels and (len(self._labels) >= MOST_KEPT or kept + n_bytes > MOST_BYTES):
            kept -= self._labels.pop(next(iter(self._labels))).nbytes

    def _of_pairs(self, questions: Sequence[Question], head: SimilarityHead) -> list[Answer]:
        """Compare first texts with what the second would be under each label."""
        encoded = [row for own in questions for row in _encode(own, head)]
        n = len(encoded) // len(questions)
        vectors = embed_rows(self.resident, _rows([own for own in questions for _ in range(n)], encoded))
        vectors = vectors.reshape(len(questions), n, -1)  # (questions, 1 + n_labels, width)
        logits = SCALE * (vectors[:, 1:] * vectors[:, :1]).sum(-1)
        is_cut = [any(item.is_cut for item in encoded[n * i : n * (i + 1)]) for i in range(len(questions))]
        return list(map(Answer, logits, is_cut))


def _compute_with(resident: Resident, head: Head) -> Any:
    """Return what runs a head that reads its logits off one forward pass."""

    def compute(questions: Sequence[Question]) -> list[Answer]:
        """Return an answer for each question."""
        encoded, limits = [_encode(question, head)[0] for question in questions], resident.limits
        answers: dict[int, Answer] = {}
        for batch in make_batches(_rows(questions, encoded), limits.batch_rows, limits.batch_tokens):
            with head.evaluating(), resident.passing([questions[i].skills for i in batch]):
                logits = head.logits_of([encoded[i] for i in batch]).float().cpu()
            answers |= {i: Answer(row, encoded[i].is_cut) for i, row in zip(batch, logits, strict=True)}
        return [answers[i] for i in range(len(questions))]

    return compute


def completes_pairs(head: Head) -> bool:
    """Return whether a head compares the first text of a pair with label texts that hold the second."""
    return isinstance(head, SimilarityHead) and head.task.head.completes_pairs


def encode_for(head: Head, texts: Texts) -> list[Encoded]:
    """Return what a head reads of a text, or a pair of texts, as the rows of an `Encoding`.

    Raises:
        DataError, ConfigError, CheckpointError: as `Head.encode`.
    """
    if isinstance(head, SimilarityHead) and completes_pairs(head):
        return head.encode([texts[:1], *head.label_texts_for(texts[1])])
    return head.encode([texts])


def _encode(question: Question, head: Head) -> list[Encoded]:
    """Return what a head reads of a question."""
    known = _known(question, head)
    return encode_for(head, question.texts) if known is None else known.rows


def _known(question: Question, head: Head) -> Encoding | None:
    """Return what was encoded for a question before, unless another skill has the task's name since."""
    return question.encoding if question.encoding is not None and question.encoding.head is head else None


def _rows(questions: Sequence[Question], encoded: Sequence[Encoded]) -> list[Row]:
    """Return a row of token ids for each question, with its skills."""
    return [Row(item.ids, question.skills) for question, item in zip(questions, encoded, strict=True)]


def require_readable(resident: Resident, question: Question) -> Head:
    """Return the head that answers a question.

    Raises:
        Refusal: the task's skill has none, or reads a pair where one text is given or the other way round, or the
            row's skills make the head's rows those of other labels.
    """
    head, n_texts = resident.head_of(question.task), len(question.texts)
    wanted = 1 if isinstance(head.task.text, str) else 2
    if n_texts != wanted:
        kind = "one text" if wanted == 1 else "a pair of texts"
        raise Refusal(400, f"skill {question.task!r} reads {kind}, and was given {n_texts}")
    resident.require_labels(question.skills, question.task)
    return head
