"""Gradients at few coordinates, without those of the matrices in which they lie.

The gradient of a linear layer's matrix is a product as large as the layer's own, a third of a training step. Of few
coordinates only the rows and columns that they touch are multiplied. For y[t] = W x[t] + b and a loss L,

    dL/dW[r, c] = sum over tokens t of dL/dy[t, r] x[t, c],    for r in the touched rows and c in the touched columns,

which takes R C products a token where the whole takes n m: with 2,271 coordinates in 22.7M weights, hundreds of times
fewer. Vectors, tables, convolutions and matrices with many coordinates give their whole gradients, as in
`graft.scores.gradients`.

A layer that shares its weight with another module gives its whole gradient too. A model may also read a layer's weight
without calling the layer. The first backward pass is therefore run in both ways, and a layer whose two answers differ
stays with its whole gradient.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from graft.scores.candidates import CandidateSum
from graft.scores.gradients import capture_gradients
from graft.tensors.live_weight import find_owners, find_readers
from graft.tensors.shards import is_distributed
from graft.tensors.touched_lines import block_cost, number
from graft.tensors.transposed import is_plain_linear

# How far the two answers may lie apart, as a share of a layer's largest gradient: what rounding of sums explains
SAME = {torch.float32: 1e-3, torch.float64: 1e-6}
SAME_IN_HALF = 0.05


@contextlib.contextmanager
def capture_entry_gradients(model: torch.nn.Module, sink: CandidateSum[Any]) -> Iterator[None]:
    """Give the gradients at a sink's coordinates to it in every backward pass within a block.

    Other parameters take no gradient, within it and afterwards; no tensor keeps its own.
    """
    layers = find_layers(model, sink)
    others = {name: weight for name, weight in sink.candidates.weights.items() if name not in layers}
    with capture_gradients(model, others, sink):
        for layer in layers.values():
            layer.watch()
        try:
            yield
        finally:
            for layer in layers.values():
                layer.leave()


def find_layers(model: torch.nn.Module, sink: CandidateSum[Any]) -> dict[str, TouchedLayer]:
    """Find the linear layers in which few rows and columns hold a sink's coordinates: base name -> layer.

    A weight that several modules share has none: an output layer that is tied to a table of embeddings looks alone in
    every pass over texts without the tokens of its coordinates.
    """
    readers = find_readers(model)
    linear = (module for module in model.modules() if is_plain_linear(module))
    modules = {id(module.weight): module for module in linear if len(readers.get(id(module.weight), ())) == 1}
    weights, lock, layers = sink.candidates.weights, threading.Lock(), {}
    for name, weight in find_owners(model, weights).items():
        module = modules.get(id(weight.owner))
        if module is None or weight.part is not None or is_distributed(weight.owner):
            continue
        layer = TouchedLayer(name, module, sink, lock)
        if layer.cost < module.weight.numel():
            layers[name] = layer
    return layers


class TouchedLayer:
    """A linear layer whose inputs and outputs' gradients give the gradients at its coordinates.

    Args:
        name: of its weight.
        module: the layer.
        sink: receives the gradients.
        lock: held while the sink is written; a model on several devices runs its hooks in as many threads.

    Attributes:
        cost: of a token, in products of the whole matrix product.
    """

    def __init__(self, name: str, module: torch.nn.Linear, sink: CandidateSum[Any], lock: threading.Lock) -> None:
        self.name, self._module, self._sink, self._lock = name, module, sink, lock
        indices = sink.candidates.indices[name].to(module.weight.device)
        self._rows, self._row_places = number(indices // module.in_features)
        self._columns, self._column_places = number(indices % module.in_features)
        self.cost = block_cost(len(self._rows), len(self._columns))
        self._first: torch.Tensor | None = None  # what the first backward pass gave
        self._is_alone: bool | None = None  # True where the calls give all of the gradient; unknown at first
        self._hooks: list[Any] = []

    def watch(self) -> None:
        """Begin, in the first backward pass beside the whole gradient."""
        weight = self._module.weight
        weight.requires_grad_(True)
        self._hooks = [
            self._module.register_forward_hook(self._after_forward, with_kwargs=True),
            weight.register_post_accumulate_grad_hook(self._check),  # type: ignore[no-untyped-call]
        ]

    def leave(self) -> None:
        """Take the hooks off; the weight takes no gradient any more."""
        for hook in self._hooks:
            hook.remove()
        self._module.weight.requires_grad_(False)
        self._module.weight.grad = None

    def receive(self, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take the inputs (..., m) of a call and the gradient (..., n) of its outputs."""
        touched = gradient.detach().flatten(0, -2).index_select(1, self._rows).float()  # (tokens, R)
        given = inputs.flatten(0, -2).index_select(1, self._columns).float()  # (tokens, C)
        values = (touched.T @ given)[self._row_places, self._column_places].cpu()
        with self._lock:
            if self._is_alone:
                self._sink.add(self.name, values)
            else:
                self._first = values if self._first is None else self._first + values

    def _after_forward(self, module: torch.nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> Any:
        if not torch.is_grad_enabled():
            return output
        inputs = args[0] if args else kwargs["input"]
        return _HandOver.apply(output, inputs.detach(), torch.ones((), requires_grad=True), self.receive)  # type: ignore[no-untyped-call]

    def _check(self, weight: torch.Tensor) -> None:
        """Hand over the whole gradient; after the first pass, go on in one of the two ways."""
        assert weight.grad is not None
        whole = self._sink.candidates.gather(self.name, weight.grad)
        with self._lock:
            self._sink.add(self.name, whole)
        weight.grad, first, self._first = None, self._first, None
        if self._is_alone is None:
            apart = SAME.get(weight.dtype, SAME_IN_HALF) * whole.abs().max()
            self._is_alone = first is not None and bool(((first - whole).abs() <= apart).all())
            self._hooks.pop(-1 if self._is_alone else 0).remove()
            weight.requires_grad_(not self._is_alone)


class _HandOver(torch.autograd.Function):
    """Identity of a layer's output, in whose backward pass the inputs and the gradient are handed over.

    The inputs are saved as autograd saves them, so that gradient checkpointing computes them anew.
    """

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, inputs: torch.Tensor, anchor: torch.Tensor, receive: Any) -> Any:
        """Return the output itself; `anchor` takes a gradient, so that this takes part where no input of it does."""
        del anchor
        ctx.save_for_backward(inputs)
        ctx.receive = receive
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Hand over and pass on."""
        ctx.receive(*ctx.saved_tensors, gradients[0])
        return gradients[0], None, None, None
