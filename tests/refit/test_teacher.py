from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.errors import CheckpointError
from graft.refit.data import RefitData
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
