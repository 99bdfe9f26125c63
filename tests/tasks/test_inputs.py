"""What a head says that the model reads is what the model reads when the head computes a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.tasks.head import open_head
from graft.tasks.task import Task
from tests.chat_models import answer_rows, chat_rows, write_answers
from tests.models import VERBALIZER, write_choices, write_task
from tests.tasks.test_every_head import write_texts

CHAT_HEAD = {"kind": "completion", "chat": True}
CASES: dict[str, tuple[str, Any]] = {
    "classifier": ("base", lambda folder: write_task(folder, head={"kind": "classifier"})),
    "masked verbalizer": ("masked", lambda folder: write_task(folder, head=VERBALIZER)),
    "causal verbalizer": ("causal", lambda folder: write_task(folder, head=VERBALIZER)),
    "choice": ("causal", write_choices),
    "lm in chunks": ("causal", lambda folder: write_texts(folder, max_length=4)),
    "completion": ("chatting", write_answers),
    "completion by the chat template": (
        "chatting",
        lambda folder: write_answers(folder, answer_rows, head=CHAT_HEAD),
    ),
    "completion in a chat": ("chatting", lambda folder: write_answers(folder, chat_rows, messages="messages")),
    "similarity with choices": ("base", lambda folder: write_choices(folder, head={"kind": "similarity"})),
}


def real_tokens(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """The token ids of each row of a batch that are no padding."""
    masks = batch["attention_mask"].bool()
    return [tuple(row[mask].tolist()) for row, mask in zip(batch["input_ids"], masks, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_inputs_are_what_the_model_reads(
    case: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture, write = CASES[case]
    task = Task.load(write(tmp_path / "task"))
    head = open_head(request.getfixturevalue(fixture), task.spec)
    for place in ("heads.choice", "shared_prefix"):  # what rows begin with is then read by each
        monkeypatch.setattr(f"graft.tasks.{place}.can_pack", lambda _: False)
    examples = task.validation_examples()[:5]
    wanted: list[tuple[int, ...]] = []
    hook = head.model.register_forward_pre_hook(
        lambda _, __, batch: wanted.extend(real_tokens(batch)), with_kwargs=True
    )
    with head.evaluating():
        head.loss(examples)
    hook.remove()
    found = [row for batch in head.inputs(examples) for row in real_tokens(batch)]
    assert found == wanted
    assert len(found) >= len(examples)
