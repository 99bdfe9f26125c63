"""Heads of several kinds on one language model."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch

from graft.errors import ConfigError
from graft.tasks.head import open_head
from graft.tasks.sharing import can_share, could_share, share_model
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.checkpoints import bits_of
from tests.models import VERBALIZER, write_choices, write_task
from tests.tasks.test_every_head import write_texts

TRAIN = {"lr": 0.3, "epochs": 1, "batch_size": 8, "scope": "layers"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    folder = tmp_path_factory.mktemp("kinds")
    files = {
        "verbalizer": write_task(folder / "verbalizer", head=VERBALIZER, train=TRAIN, name="words"),
        "choice": write_choices(folder / "choice", train=TRAIN, name="choices"),
        "lm": write_texts(folder / "lm", train=TRAIN, name="texts"),
    }
    return {kind: Task.load(file) for kind, file in files.items()}


@pytest.mark.parametrize(("first", "second"), permutations(["verbalizer", "choice", "lm"], 2))
def test_heads_of_any_kind_are_on_one_causal_model(
    first: str, second: str, causal: Path, tasks: dict[str, Task]
) -> None:
    head, alone = open_head(causal, tasks[first].spec), open_head(causal, tasks[second].spec)
    shared = share_model(head, tasks[second].spec)
    assert shared.model is head.model
    assert type(shared) is type(alone)
    assert can_share(head, tasks[second].spec)
    assert could_share(tasks[first].spec, tasks[second].spec)
    examples = tasks[second].train_examples()[:5]
    with shared.evaluating(), alone.evaluating():
        assert float(shared.loss(examples)) == float(alone.loss(examples))


def test_a_masked_model_takes_verbalizers_alone(masked: Path, causal: Path, tasks: dict[str, Task]) -> None:
    words = share_model(open_head(causal, tasks["lm"].spec), tasks["verbalizer"].spec)
    assert words.kind_of_model == "causal"
    head = open_head(masked, tasks["verbalizer"].spec)
    again, alone = share_model(head, tasks["verbalizer"].spec), open_head(masked, tasks["verbalizer"].spec)
    texts = [example.texts for example in tasks["verbalizer"].train_examples()[:3]]
    with again.evaluating():
        assert torch.equal(again.logits_of(again.encode(texts)), alone.logits_of(alone.encode(texts)))
    assert could_share(tasks["verbalizer"].spec, tasks["lm"].spec)  # before it is known that the model is masked
    assert not can_share(head, tasks["lm"].spec)
    with pytest.raises(ConfigError, match=r"'words' \(verbalizer\) and 'texts' \(lm\) cannot share a model"):
        share_model(head, tasks["lm"].spec)


def test_two_kinds_train_one_model(causal: Path, tasks: dict[str, Task], tmp_path: Path) -> None:
    both = [tasks["verbalizer"], tasks["choice"]]
    together = train_task(causal, both, tmp_path / "both", config=both[0].spec.train).path
    single = train_task(causal, both[0], tmp_path / "single", config=both[0].spec.train).path
    bits = [bits_of(open_head(path, both[0].spec).model) for path in (causal, single, together)]
    assert bits[0] != bits[1] != bits[2] != bits[0]
