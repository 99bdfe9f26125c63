"""Gradients are handed over one at a time, and none stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from graft.errors import CheckpointError
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import DenseSum, GradientMean, GradientSink, sum_mean_gradients
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.models import VERBALIZER, toy_spec, write_causal, write_task


class Watcher(GradientSink):
    """Counts, at each hand-over, the gradients that are alive."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.received: list[str] = []
        self.alive: list[int] = []
        self.batches = 0

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        self.received.append(name)
        self.alive.append(sum(weight.grad is not None for weight in self.model.parameters()))

    def end_batch(self, *, counts: bool = True) -> None:
        self.batches += 1


def test_one_gradient_is_alive_at_a_time_and_none_stays(path: GradientPath) -> None:
    model = path.head.model
    model.requires_grad_(True)
    path.head.loss(path.examples[:8]).backward()  # type: ignore[no-untyped-call]
    plain = sum(weight.grad is not None for weight in model.parameters())
    assert plain > 20  # the control: what a plain backward keeps alive
    path.stream_gradients(watcher := Watcher(model))
    assert set(watcher.alive) == {1}
    assert watcher.batches == -(-len(path.examples) // path.batch_size)
    assert len(watcher.received) == watcher.batches * plain
    assert all(weight.grad is None for weight in model.parameters())


def test_only_the_wanted_weights_take_gradients(path: GradientPath) -> None:
    name = "encoder.layer.1.output.dense.weight"
    path.stream_gradients(watcher := Watcher(path.head.model), {name: path.weights[name]}, micro_batches=1)
    assert watcher.received == [name]


def test_micro_batches_are_spread_over_the_examples(path: GradientPath, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    loss = path.head.loss

    def watch(batch: list[object], *offsets: object) -> torch.Tensor:
        seen.append(path.examples.index(batch[0]))  # type: ignore[arg-type]
        return loss(batch, *offsets)  # type: ignore[arg-type]

    monkeypatch.setattr(path.head, "loss", watch)
    path.batch_size = 10
    path.stream_gradients(Watcher(path.head.model), micro_batches=4)
    n = len(path.examples)
    assert len(seen) == 4
    assert seen[0] < n / 10
    assert seen[-1] > 0.6 * n


def test_what_goes_wrong_in_a_sink_leaves_no_gradient_and_no_hook(path: GradientPath) -> None:
    class Failing(Watcher):
        def receive(self, name: str, gradient: torch.Tensor) -> None:
            super().receive(name, gradient)
            raise CheckpointError("full")

    with pytest.raises(CheckpointError, match="full"):
        path.stream_gradients(failing := Failing(path.head.model))
    assert all(weight.grad is None for weight in path.head.model.parameters())
    path.stream_gradients(Watcher(path.head.model))
    assert len(failing.received) == 1


def test_a_tied_weight_is_received_once_with_the_gradient_of_all_its_uses(tmp_path: Path) -> None:
    base, name = write_causal(tmp_path / "base", steps=5), "model.embed_tokens.weight"
    task = Task.load(write_task(tmp_path / "task", head=VERBALIZER))
    head = open_head(base, task.spec)
    assert head.model.lm_head.weight is head.model.model.embed_tokens.weight
    path = GradientPath(head, CheckpointPair.open(base, base), [name], task.train_examples()[:32], class_debias=False)
    path.stream_gradients(watcher := Watcher(head.model))
    assert watcher.received == [name]
    path.stream_gradients(dense := DenseSum(path.weights))
    head.model.requires_grad_(True)
    head.loss(path.examples).backward()  # type: ignore[no-untyped-call]
    expected = head.model.lm_head.weight.grad.flatten()
    assert expected.norm() > 0.01
    assert torch.allclose(dense.sums[name], expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_texts_of_one_token_count_nowhere_whatever_the_micro_batch(batch_size: int, tmp_path: Path) -> None:
    base = write_causal(tmp_path / "base", steps=1)
    head = open_head(base, toy_spec(labels=(), head=HeadSpec("lm")))
    head.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", "$A $B", [])  # no special tokens
    counted = [Example((text,), 0) for text in ("the film was good", "the soup is very bad")]
    examples = [Example(("film",), 0), *counted, Example(("soup",), 0)]
    name = "model.layers.1.mlp.up_proj.weight"
    weights = {name: head.model.get_parameter(name)}
    (wanted,) = torch.autograd.grad(head.loss(counted), list(weights.values()))
    sum_mean_gradients(head, weights, whole := DenseSum(weights), examples, batch_size)
    path = GradientPath(head, CheckpointPair.open(base, base), [name], examples, batch_size=batch_size)
    path.stream_gradients(streamed := DenseSum(weights))
    mean = GradientMean(head, weights, examples, 4).of(lambda gradient: gradient)
    for found in (whole.sums[name], streamed.sums[name], mean[name]):
        assert torch.allclose(found, wanted.flatten(), atol=1e-6)


def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is(path: GradientPath) -> None:
    def loss_of(batch: object) -> torch.Tensor:
        # (w - w) is 0, and the derivative of the square root is infinite there
        return sum((weight - weight.detach()).abs().sum().sqrt() for weight in path.weights.values())  # type: ignore[return-value]

    sink = DenseSum(path.weights)
    sum_mean_gradients(path.head, path.weights, sink, path.examples, 32)  # the control: the head's own loss
    with pytest.raises(CheckpointError, match="its gradient is not finite"):
        sum_mean_gradients(path.head, path.weights, sink, path.examples, 32, loss_of=loss_of)
