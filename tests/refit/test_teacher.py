from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import CheckpointError
from graft.refit.data import RefitData
from graft.refit.measured import measure
from graft.refit.objective import Objective
from graft.refit.teacher import RecordedTeacher, ResidentTeacher, make_teacher
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import open_head
from graft.tasks.task import Task
from tests.models import toy_spec, write_causal


def test_recorded_outputs_are_the_models_own_in_any_order(tuned: Path, task: Task, data: RefitData) -> None:
    head = open_head(tuned, task.spec)
    teacher = make_teacher(head, data.train)
    assert isinstance(teacher, RecordedTeacher)
    expected = head.predict(data.train)
    assert torch.equal(teacher.logits(data.train), expected)
    assert torch.equal(teacher.logits(data.train[::-1]), expected.flip(0))
    assert torch.equal(teacher.logits([data.train[3]] * 2), expected[[3, 3]])


def test_a_student_of_the_teachers_own_weights_is_at_a_divergence_of_zero_whatever_shares_a_batch(
    tuned: Path, task: Task, data: RefitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = open_head(tuned, task.spec)
    plain = head.logits_of

    def rounded_by_batch(rows: Sequence[Any]) -> torch.Tensor:
        return plain(rows) * (1 + 1e-2 * len(rows))  # as kernels do for other shapes, but in plain sight

    monkeypatch.setattr(head, "logits_of", rounded_by_batch)
    train = [*data.train, data.validation[0]]  # a text of both sets
    objective = Objective(head, make_teacher(head, train, data.validation))
    assert measure(objective, data.validation).kl == 0
    assert measure(objective, data.validation[:5]).kl != 0  # positive control: in another batch


def test_rows_of_choices_are_as_wide_as_the_widest_that_is_asked_for(tmp_path: Path) -> None:
    spec = toy_spec(labels=(), choices="choices", head=HeadSpec("choice", template="{text} {choice}"))
    head = open_head(write_causal(tmp_path / "causal", steps=1), spec)
    two, three = (Example(("the film",), 0, ("good", "bad", "fine")[:n]) for n in (2, 3))
    teacher = make_teacher(head, [two, three], [two])
    assert torch.allclose(teacher.logits([three, two]), head.predict([three, two]), atol=1e-5)
    assert teacher.logits([three, two])[1, 2] == -torch.inf
    assert teacher.logits([two]).shape == (1, 2)


def test_outputs_that_are_not_finite_are_refused(tuned: Path, task: Task, data: RefitData) -> None:
    head = open_head(tuned, task.spec)
    with torch.no_grad():
        head.model.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="outputs are not finite"):
        make_teacher(head, data.train)


def test_a_model_of_tokens_stays_and_its_outputs_take_part_in_gradients(tmp_path: Path) -> None:
    head = open_head(write_causal(tmp_path / "causal", steps=1), toy_spec(labels=(), head=HeadSpec("lm")))
    texts = [Example(("the film was good",), 0), Example(("one soup",), 0)]
    teacher = make_teacher(head, texts)
    assert isinstance(teacher, ResidentTeacher)
    found = teacher.logits(texts)
    assert not found.is_inference()
    assert not found.requires_grad
    assert torch.allclose(found, head.outputs(texts).logits, atol=1e-6)
    assert not head.model.training
