from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from graft.localize.localization import localize_skill
from graft.patch.live import apply_patch
from graft.patch.mask import Mask
from graft.scores.gradient_path import GradientPath
from graft.scores.inputs import ScoreInput
from graft.scores.offsets import fit_class_offsets
from graft.scores.random import draw
from graft.scores.registry import SCORES
from graft.scores.relative import FLOOR
from graft.specs.localize import LocalizeSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import layer_of
from tests.checkpoints import write_single
from tests.models import copy_with, general_of

PLANTED = "embeddings.word_embeddings.weight"
# rows that no prediction depends on: softmax ignores what all keys have in common, no text is as long, and no
# word is unknown
IDLE = {
    "encoder.layer.0.attention.self.key.bias": slice(None),
    "embeddings.position_embeddings.weight": slice(20, None),
    "embeddings.word_embeddings.weight": slice(1, 2),
}


def loss_of(model: Path | Head, task: Task, class_debias: bool = True) -> float:
    """The mean loss on the training examples, class offsets set aside where asked for."""
    head = model if isinstance(model, Head) else open_head(model, task.spec)
    logits = head.predict(task.train_examples())
    labels = torch.tensor([example.label for example in task.train_examples()])
    offsets = fit_class_offsets(logits, labels) if class_debias else 0
    return torch.nn.functional.cross_entropy(logits + offsets, labels).item()


@pytest.mark.parametrize("class_debias", [False, True])
def test_attributions_sum_to_the_change_of_the_loss(class_debias: bool, base: Path, tuned: Path, task: Task) -> None:
    change = loss_of(tuned, task, class_debias) - loss_of(base, task, class_debias)
    assert change < -0.3  # there is something to attribute
    pair, head = CheckpointPair.open(base, tuned), open_head(base, task.spec)
    names, examples = pair.base.parameters, task.train_examples()
    path = GradientPath(head, pair, names, examples, batch_size=128, class_debias=class_debias)

    def total(method: str, points: int = 1) -> float:
        table = SCORES[method].load()(ScoreInput(pair, names, points=points, path=path))
        return -sum(float(table[name]().sum()) for name in table)

    assert total("attribution", 32) == pytest.approx(change, rel=2e-3)
    assert total("attribution", 8) == pytest.approx(change, rel=2e-2)
    # the gradient at the base alone does not add up to it
    assert abs(total("taylor") - change) > 5 * abs(total("attribution", 32) - change)


def test_a_table_gives_the_same_again(base: Path, tuned: Path, task: Task) -> None:
    pair = CheckpointPair.open(base, tuned)
    path = GradientPath(open_head(base, task.spec), pair, [PLANTED], task.train_examples())
    for name, score in SCORES.items():
        task = general_of(name)
        general, groups = (task.train_examples(), [([PLANTED], 30)]) if task else ((), ())
        table = score.load()(ScoreInput(pair, (PLANTED,), points=1, path=path, groups=groups, general=general))
        first = table[PLANTED]()
        assert first.dtype == torch.float32
        assert first.shape == (pair.base.spec(PLANTED).numel,)
        assert torch.equal(table[PLANTED](), first)


def test_magnitude_is_the_size_of_the_movement(base: Path, tuned: Path) -> None:
    pair = CheckpointPair.open(base, tuned)
    before, after = pair.read(PLANTED)
    table = SCORES["magnitude"].load()(ScoreInput(pair, (PLANTED,)))
    assert torch.equal(table[PLANTED](), (after - before).abs().flatten())


def test_relative_movement_is_by_the_size_of_the_weight(tmp_path: Path) -> None:
    before = {"layers.0.w": torch.tensor([2.0, -0.5, 0.0, 0.0]), "layers.1.w": torch.zeros(2)}
    moved = {"layers.0.w": torch.tensor([3.0, -0.6, 1e-6, 0.0]), "layers.1.w": torch.tensor([0.0, 0.01])}
    pair = CheckpointPair.open(write_single(tmp_path / "base", before), write_single(tmp_path / "tuned", moved))
    table = SCORES["relative"].load()(ScoreInput(pair, ("layers.0.w", "layers.1.w")))
    eps = FLOOR * (4.25 / 6) ** 0.5
    expected = torch.tensor([1 / (2 + eps), 0.1 / (0.5 + eps), 1e-6 / eps, 0.0])
    assert torch.allclose(table["layers.0.w"](), expected)
    assert torch.allclose(table["layers.1.w"](), torch.tensor([0.0, 0.01 / eps]))  # whole tensors of zeros, too
    alone = SCORES["relative"].load()(ScoreInput(pair, ("layers.1.w",)))
    assert torch.allclose(alone["layers.1.w"](), torch.tensor([0.0, 0.01]) / FLOOR)  # by |delta| alone


def open_path(base: Path, tuned: Path, task: Task, class_debias: bool = False) -> GradientPath:
    pair = CheckpointPair.open(base, tuned)
    names = tuple(name for name in pair.base.parameters if "layer.1" in name)
    return GradientPath(open_head(base, task.spec), pair, names, task.train_examples()[:24], class_debias=class_debias)


@pytest.mark.parametrize("class_debias", [False, True])
def test_fisher_information_is_the_mean_of_squared_gradients(
    class_debias: bool, base: Path, tuned: Path, task: Task
) -> None:
    path = open_path(base, tuned, task, class_debias)
    found = path.squared_gradients_at(1.0)
    labels = torch.tensor([example.label for example in path.examples])
    offsets = fit_class_offsets(path.head.predict(path.examples), labels) if class_debias else None
    expected = {name: torch.zeros_like(weight) for name, weight in path.weights.items()}
    for example in path.examples:
        for weight in path.weights.values():
            weight.grad = None
        path.head.loss([example], offsets).backward()
        for name, weight in path.weights.items():
            if weight.grad is not None:
                expected[name] += weight.grad**2 / len(path.examples)
    name = "encoder.layer.1.output.dense.weight"
    assert expected[name].mean() > 1e-9
    for name, fisher in found.items():
        assert torch.allclose(fisher, expected[name].flatten(), rtol=1e-4, atol=1e-12)


def test_micro_batches_square_mean_gradients(base: Path, tuned: Path, task: Task) -> None:
    path = open_path(base, tuned, task)
    name = "encoder.layer.1.output.dense.weight"
    mean = path.gradients_at(0.0)[name]
    exact, halves, whole = (path.squared_gradients_at(0.0, micro_batch=size)[name] for size in (1, 12, 24))
    assert torch.allclose(whole, mean**2, rtol=1e-3, atol=1e-10)
    assert float(exact.sum()) > 2 * float(whole.sum())  # the spread over examples is lost
    assert bool((whole <= halves + 1e-9).all())
    assert bool((halves <= exact + 1e-9).all())  # Jensen's inequality


def squares_of(path: GradientPath, example: Example, offsets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Squared gradients of one example's loss where the weights are now: name -> (n,) fp32."""
    path.head.model.zero_grad()
    path.head.loss([example], offsets).backward()
    grads = {name: weight.grad for name, weight in path.weights.items()}
    return {name: grad.flatten() ** 2 for name, grad in grads.items() if grad is not None}


def test_fisher_weighs_the_movement_by_the_squared_gradient_at_the_tuned_model(
    base: Path, tuned: Path, task: Task
) -> None:
    path = open_path(base, tuned, task)
    path.examples = path.examples[:5]
    found = SCORES["fisher"].load()(ScoreInput(path.pair, tuple(path.weights), path=path, micro_batch=1))
    path.move_to(1.0)
    each = [squares_of(path, example) for example in path.examples]
    for name in each[0]:
        before, after = path.pair.read(name)
        expected = sum(squares[name] for squares in each) / 5 * (after - before).flatten() ** 2
        assert torch.allclose(found[name](), expected, rtol=1e-3, atol=1e-14)
    assert max(float(found[name]().max()) for name in each[0]) > 1e-9


def test_talos_turns_away_from_what_the_models_own_labels_are_sensitive_to(base: Path, tuned: Path, task: Task) -> None:
    """Of one example the score is -g^2 for the label that was drawn; drawn often, as often as the model says it."""
    path = open_path(base, tuned, task)
    name, n_draws, n_positive = "encoder.layer.1.output.dense.weight", 60, 0
    path.examples = path.examples[:1]
    of_label = [squares_of(path, dataclasses.replace(path.examples[0], label=label))[name] for label in (0, 1)]
    chance = float(path.head.predict(path.examples).softmax(-1)[0, 1])
    for path.seed in range(n_draws):
        found = SCORES["talos"].load()(ScoreInput(path.pair, tuple(path.weights), path=path, micro_batch=1))[name]()
        matches = [torch.allclose(found, -squares, rtol=1e-3, atol=1e-14) for squares in of_label]
        assert matches.count(True) == 1
        n_positive += matches[1]
    assert abs(n_positive - n_draws * chance) < 4 * (n_draws * chance * (1 - chance)) ** 0.5
    assert 0 < n_positive < n_draws


@pytest.mark.parametrize("method", SCORES)
def test_budgets_can_be_shared_out_whatever_the_score(method: str, base: Path, tuned: Path, task: Task) -> None:
    shares = {}
    for allocation in ("global", "per-layer", "per-tensor"):
        config = LocalizeSpec(method, budget=500, allocation=allocation, points=1, micro_batch=32)  # type: ignore[arg-type]
        mask = localize_skill(base, tuned, task, config, general=general_of(method)).mask
        assert len(mask) == 500
        by_layer: dict[str, int] = {}
        for name in mask:
            by_layer[layer_of(name)] = by_layer.get(layer_of(name), 0) + len(mask[name])
        shares[allocation] = by_layer
    sizes = shares["per-layer"]
    assert sizes.keys() == {"encoder.layer.0", "encoder.layer.1"}
    assert abs(sizes["encoder.layer.0"] - 250) <= 10  # both layers are of a size, nearly all of it changed
    assert all(abs(shares["per-tensor"][layer] - sizes[layer]) <= 10 for layer in sizes)


def test_random_scores_depend_on_seed_and_name_alone(base: Path, tuned: Path) -> None:
    pair = CheckpointPair.open(base, tuned)
    alone = SCORES["random"].load()(ScoreInput(pair, (PLANTED,), seed=3))[PLANTED]()
    among = SCORES["random"].load()(ScoreInput(pair, pair.base.parameters, seed=3))[PLANTED]()
    assert torch.equal(alone, among)
    assert torch.equal(alone[:100], draw(PLANTED, 100, 3))
    assert not torch.equal(alone[:100], draw(PLANTED, 100, 4))
    assert not torch.equal(alone[:100], draw("another", 100, 3))
    assert 0 <= alone.min() < 0.01 < 0.99 < alone.max() < 1


@pytest.fixture(scope="module")
def planted(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mask]:
    """The base with 40 weights moved a little against the gradient, and hundreds moved far to no effect."""
    base, task = shelf / "base", Task.load(shelf / "toy" / "task.yaml")
    pair = CheckpointPair.open(base, base)
    path = GradientPath(open_head(base, task.spec), pair, [PLANTED], task.train_examples())
    gradient = path.gradients_at(0.0)[PLANTED]
    chosen = gradient.abs().topk(40).indices

    def change(name: str, weight: torch.Tensor) -> None:
        if name == PLANTED:
            weight.view(-1)[chosen] -= 0.02 * gradient[chosen].sign()
        if name in IDLE:
            weight[IDLE[name]] += 2.0

    tuned = copy_with(base, tmp_path_factory.mktemp("planted") / "tuned", change)
    return tuned, Mask.of({PLANTED: pair.base.spec(PLANTED)}, {PLANTED: chosen.numpy()})


@pytest.mark.parametrize(
    ("method", "found", "kept"),
    [
        ("attribution", {40}, True),
        ("taylor", {40}, True),
        ("fisher", {40}, True),
        ("adam-attribution", {40}, True),
        ("wanda", {8}, False),
        ("lift-delta", {0}, False),
        ("talos", {0}, False),
        ("magnitude", {0}, False),
        ("relative", {0}, False),
        ("random", range(12), False),
    ],
)
def test_a_planted_skill_is_found_by_what_looks_at_the_loss_and_by_nothing_else(
    method: str, found: Collection[int], kept: bool, planted: tuple[Path, Mask], base: Path, task: Task
) -> None:
    tuned, mask = planted
    config = LocalizeSpec(method, budget=40, scope="all", seed=1)  # type: ignore[arg-type]
    patch = localize_skill(base, tuned, task, config)
    assert len(patch) == 40
    assert len(patch.mask & mask) in found
    before, after = loss_of(base, task), loss_of(tuned, task)
    assert after < before - 0.1
    head = open_head(base, task.spec)
    with apply_patch(head.model, patch):
        gained = (before - loss_of(head, task)) / (before - after)
    assert gained == pytest.approx(1, abs=1e-3) if kept else abs(gained) < 0.4
