"""A tuned model that leans to one class: the lean must not choose the entries (`graft.scores.offsets`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.localize.localization import localize_skill
from graft.patch.mask import Mask
from graft.scores.gradient_path import GradientPath
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.models import copy_with

WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def leaning(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mask]:
    """The base with 40 weights that tell the moods apart, and 40 that raise one mood whatever the text says."""
    base, task = shelf / "base", Task.load(shelf / "toy" / "task.yaml")
    examples = task.train_examples()
    path = GradientPath(open_head(base, task.spec), CheckpointPair.open(base, base), [WORDS], examples)
    slope = path.gradients_at(0.0)[WORDS]
    logits = path.head.logits(examples)
    (logits[:, 1] - logits[:, 0]).mean().backward()
    lift = path.weights[WORDS].grad
    assert lift is not None
    skill = slope.abs().topk(40).indices
    lean = lift.flatten().index_fill(0, skill, 0.0).abs().topk(40).indices

    def change(name: str, weight: torch.Tensor) -> None:
        if name == WORDS:
            weight.view(-1)[skill] -= 0.01 * slope[skill].sign()
            weight.view(-1)[lean] += 0.03 * lift.flatten()[lean].sign()

    tuned = copy_with(base, tmp_path_factory.mktemp("leaning") / "tuned", change)
    return tuned, Mask.of({WORDS: path.pair.base.spec(WORDS)}, {WORDS: skill.numpy()})


@pytest.mark.parametrize("class_debias", [False, True])
def test_a_lean_of_the_tuned_model_does_not_choose_the_entries(
    class_debias: bool, leaning: tuple[Path, Mask], base: Path, task: Task
) -> None:
    tuned, skill = leaning
    predicted = open_head(tuned, task.spec).predict(task.train_examples()).argmax(1)
    assert predicted.float().mean() > 0.95  # it leans indeed
    patch = localize_skill(base, tuned, task, LocalizeSpec("taylor", budget=40, scope="all", class_debias=class_debias))
    found = len(patch.mask & skill)
    assert found >= 30 if class_debias else found <= 10
