"""Attribution along the graft's own path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.localize.localization import localize_skill
from graft.patch.live import apply_patch
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import cut_patch
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import DenseSum
from graft.scores.inputs import ScoreInput
from graft.scores.offsets import fit_class_offsets
from graft.scores.registry import SCORES
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import bits_of, changed_mask


@pytest.fixture
def path(base: Path, tuned: Path, task: Task) -> GradientPath:
    pair = CheckpointPair.open(base, tuned)
    return GradientPath(open_head(base, task.spec), pair, pair.base.parameters, task.train_examples(), batch_size=64)


def offsets_of(path: GradientPath) -> torch.Tensor:
    """The class offsets that fit the model where it is now."""
    labels = torch.tensor([example.label for example in path.examples])
    return fit_class_offsets(path.head.predict(path.examples), labels)


def test_the_gradients_are_those_of_the_grafted_model(path: GradientPath, base: Path, task: Task) -> None:
    pair = path.pair
    name = "embeddings.word_embeddings.weight"
    mask = Mask.of({name: pair.base.spec(name)}, {name: changed_mask(pair)[name][::2]})
    path.move_to_graft(mask)
    path.stream_gradients(sink := DenseSum(path.weights))
    found = sink.sums
    head = open_head(base, task.spec)
    with apply_patch(head.model, cut_patch(pair, mask, Provenance())):
        grafted = GradientPath(head, CheckpointPair.open(base, base), path.pair.base.parameters, path.examples)
        grafted.batch_size = path.batch_size
        head.loss(path.examples, offsets_of(grafted)).backward()
        expected = dict(head.model.named_parameters())[name].grad
    assert expected is not None
    assert torch.allclose(found[name], expected.flatten(), atol=1e-5)
    assert not torch.allclose(found[name], path.gradients_at(0.0)[name], atol=1e-5)  # it is not the base's


def test_one_point_is_the_first_order_term(path: GradientPath) -> None:
    """-delta * g, by differentiating the mean loss at the base in one go."""
    names, pair = path.pair.base.parameters, path.pair
    by_graft = SCORES["attribution"].load()(ScoreInput(pair, names, points=1, path=path, straight=False))
    taylor = SCORES["taylor"].load()(ScoreInput(pair, names, path=path))
    path.head.loss(path.examples, offsets_of(path)).backward()
    for name, weight in path.weights.items():
        base, tuned = pair.read(name)
        g = torch.zeros_like(base) if weight.grad is None else weight.grad
        expected = ((base - tuned) * g).flatten()
        assert torch.allclose(taylor[name](), expected, rtol=1e-3, atol=1e-7)
        assert torch.allclose(by_graft[name](), expected, rtol=1e-3, atol=1e-7)
    assert max(float(taylor[name]().max()) for name in names) > 1e-4  # they are not all nothing


def test_the_base_is_restored_bit_for_bit(path: GradientPath) -> None:
    before = bits_of(path.head.model)
    path.move_to_graft(changed_mask(path.pair))
    assert bits_of(path.head.model) != before
    path.return_to_base()
    assert bits_of(path.head.model) == before


@pytest.mark.parametrize("budget", [300, 1000])
def test_the_graft_serves_the_task_at_least_as_well_as_the_first_order_choice(
    budget: int, base: Path, tuned: Path, task: Task
) -> None:
    head = open_head(base, task.spec)

    def loss(method: str, **changes: object) -> float:
        config = LocalizeSpec(method, budget=budget, scope="all", **changes)  # type: ignore[arg-type]
        patch = localize_skill(base, tuned, task, config)
        assert len(patch) == budget
        with apply_patch(head.model, patch):
            logits = head.predict(task.train_examples())
        labels = torch.tensor([example.label for example in task.train_examples()])
        return float(torch.nn.functional.cross_entropy(logits, labels))

    random, taylor = loss("random"), loss("taylor")
    assert taylor < random - 0.01  # the control: choosing matters
    assert loss("attribution", points=6) <= taylor + 0.01
