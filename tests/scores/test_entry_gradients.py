"""Gradients at few coordinates are those of the whole matrices there, whatever the model does with its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.scores.candidates import CandidateSum, LiveCoordinates
from graft.scores.entry_gradients import capture_entry_gradients, find_layers
from graft.scores.gradients import capture_gradients

N = 96
K = 9  # of each weight


class Plain(torch.nn.Module):
    """Two layers, the second of which is called twice; every other test's model is one of it with a change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(20, N)
        self.first = torch.nn.Linear(N, N)
        self.second = torch.nn.Linear(N, N, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = torch.tanh(self.first(self.table(ids)))
        return self.out(torch.tanh(self.second(input=torch.tanh(self.second(states)))))

    def out(self, states: torch.Tensor) -> torch.Tensor:
        return states @ torch.ones(N, 3).to(states)


class Tied(Plain):
    """A layer whose weight is another's."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(N, 20, bias=False)
        self.head.weight = self.table.weight

    def out(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(states)
        return result


class ReadAside(Plain):
    """A layer's weight that is read without a call as well."""

    def out(self, states: torch.Tensor) -> torch.Tensor:
        return states @ self.first.weight


class NeverCalled(Plain):
    """A layer that is never called, but whose weight is read."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.second(torch.tanh(torch.nn.functional.linear(self.table(ids), self.first.weight))))


class Recomputed(Plain):
    """Activations are computed anew in the backward pass."""

    use_reentrant = False

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.table(ids)
        if self.use_reentrant:
            states.requires_grad_()
        return self.out(checkpoint(self._middle, states, use_reentrant=self.use_reentrant))

    def _middle(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.second(self.first(states).relu_()))


class RecomputedReentrant(Recomputed):
    use_reentrant = True


def sink_of(model: torch.nn.Module, names: tuple[str, ...]) -> CandidateSum[LiveCoordinates]:
    """A sink of K random coordinates of each of some parameters."""
    weights = {name: parameter for name, parameter in model.named_parameters() if name in names}
    specs = {name: TensorSpec("F32", tuple(weight.shape)) for name, weight in weights.items()}
    draw = np.random.default_rng(0)
    indices = {name: draw.choice(weight.numel(), K, replace=False) for name, weight in weights.items()}
    return CandidateSum(LiveCoordinates(weights, Mask.of(specs, indices)))


def batches(n: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randint(20, (4, 7)) for _ in range(n)]


def run(
    model: torch.nn.Module, sink: CandidateSum[Any], texts: Sequence[torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """The gathered gradients of each batch."""
    found = []
    for ids in texts or batches():
        model(ids).float().square().mean().backward()
        sink.end_batch()
        found.append(sink.pop())
    return found


NAMES = ("table.weight", "first.weight", "first.bias", "second.weight")


@pytest.mark.parametrize("kind", [Plain, Tied, ReadAside, NeverCalled, Recomputed, RecomputedReentrant])
@pytest.mark.parametrize("names", [NAMES, ("second.weight",), ("first.weight",)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_those_of_the_whole_gradients(kind: type[Plain], names: tuple[str, ...], dtype: torch.dtype) -> None:
    model = kind().to(dtype)
    whole, few = sink_of(model, names), sink_of(model, names)
    with capture_gradients(model, whole.candidates.weights, whole):
        expected = run(model, whole)
    with capture_entry_gradients(model, few):
        found = run(model, few)
    assert all(gradient.any() for gradient in expected)
    assert torch.equal(found[0], expected[0])  # the first pass computes both, and hands over the whole one's
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=(1e-6 if dtype == torch.float32 else 0.02) * float(theirs.abs().max()))
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_tied_weight_gives_its_whole_gradient_also_where_the_first_texts_lack_its_tokens() -> None:
    model = Tied()
    weight = model.table.weight
    spec = {"table.weight": TensorSpec("F32", tuple(weight.shape))}
    mask = Mask.of(spec, {"table.weight": 19 * N + np.arange(K)})  # of a token that stands in the second text alone
    texts = [torch.tensor([[1, 2, 3]]), torch.tensor([[1, 19, 3]])]
    whole, few = (CandidateSum(LiveCoordinates({"table.weight": weight}, mask)) for _ in range(2))
    with capture_gradients(model, whole.candidates.weights, whole):
        expected = run(model, whole, texts)
    with capture_entry_gradients(model, few):
        found = run(model, few, texts)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6 * float(theirs.abs().max()))


def watched(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, bool]:
    """Weight -> whether it takes no whole gradient after the first pass."""
    sink = sink_of(model, names)
    with capture_entry_gradients(model, sink):
        run(model, sink)
        return {name: not weight.requires_grad for name, weight in sink.candidates.weights.items()}


def test_whole_gradients_are_spared_where_layers_are_called_alone() -> None:
    assert watched(Plain(), NAMES) == {
        "table.weight": False, "first.weight": True, "first.bias": False, "second.weight": True
    }  # fmt: skip
    assert watched(ReadAside(), NAMES[1:]) == {"first.weight": False, "first.bias": False, "second.weight": True}
    assert watched(NeverCalled(), ("first.weight",)) == {"first.weight": False}


def test_a_matrix_with_many_coordinates_gives_its_whole_gradient() -> None:
    model = Plain()
    weight = model.first.weight
    spec = {"first.weight": TensorSpec("F32", tuple(weight.shape))}
    for k, is_found in ((20, True), (N * N // 4, False)):
        indices = np.random.default_rng(0).choice(N * N, k, replace=False)
        sink = CandidateSum(LiveCoordinates({"first.weight": weight}, Mask.of(spec, {"first.weight": indices})))
        assert bool(find_layers(model, sink)) is is_found
    columns = np.arange(N)[:, None] * N + np.array([3, 5])  # twice as many as would fit, in two columns
    sink = CandidateSum(LiveCoordinates({"first.weight": weight}, Mask.of(spec, {"first.weight": columns.ravel()})))
    assert find_layers(model, sink)["first.weight"].cost < N * N


def test_no_gradient_is_computed_below_the_lowest_coordinate() -> None:
    model, passed = Plain(), []
    model.first.register_full_backward_hook(lambda *_: passed.append("first"))
    sink = sink_of(model, ("second.weight",))
    with capture_entry_gradients(model, sink):
        run(model, sink)
    assert passed == []
