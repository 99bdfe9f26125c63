"""Gradients as they come: a hook hands each weight's gradient to a sink and frees it before the next one is there.

At most one tensor's gradient is alive at a time, whatever the model's size: what stays is what the sink keeps, which
is a number per candidate or, for a dense sum, one per weight in host memory.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial

import torch

from graft.parallel.sharded import is_sharded
from graft.tasks.head import Head
from graft.tensors.live_weight import LiveWeight, find_owners, group_by_owner


class GradientSink(ABC):
    """What becomes of the gradients of one micro-batch after another."""

    @abstractmethod
    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Take the gradient of a weight, in its shape, dtype and place; it is freed when this returns."""

    def end_batch(self, *, counts: bool = True) -> None:  # noqa: B027 - most sinks need nothing here
        """Every weight that the micro-batch touches has been received: what was gathered of it is final.

        Over several processes all end their micro-batches together; `counts` is off where there was none for this one.
        """


class DenseSum(GradientSink):
    """The sum of all gradients: 4 bytes per weight of host memory.

    Attributes:
        sums: name -> (n,) fp32 on the CPU; zeros for a weight that no loss touches, such as a pooler's.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.sums = {name: torch.zeros(weight.numel()) for name, weight in weights.items()}

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Add it."""
        self.sums[name].add_(gradient.float().flatten().cpu())


class DenseSquares(DenseSum):
    """The sum of the squares of all gradients, each of one micro-batch: 4 bytes per weight of host memory."""

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Add its square."""
        gradient = gradient.float().flatten().cpu()
        self.sums[name].addcmul_(gradient, gradient)


@contextlib.contextmanager
def pouring(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], sink: GradientSink) -> Iterator[GradientSink]:
    """A context in which backward passes give the gradients of `weights` to the sink; none keeps its own.

    Other parameters take no gradient, within it and afterwards.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    lock = threading.Lock()  # a model on several devices runs its hooks in as many threads
    hooks = []
    owned = group_by_owner(find_owners(model, weights))
    for owner, named in owned:
        owner.requires_grad_(True)
        hook = partial(_hand_over, sink, lock, named)
        hooks.append(owner.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield sink
    finally:
        for hook in hooks:
            hook.remove()
        for owner, _ in owned:
            owner.grad = None


def _hand_over(sink: GradientSink, lock: threading.Lock, named: Mapping[str, LiveWeight], weight: torch.Tensor) -> None:
    assert weight.grad is not None
    with lock:
        for name, part in named.items():
            sink.receive(name, part.of(weight.grad.detach()))
    weight.grad = None


def backpropagate(head: Head, loss: torch.Tensor, counts: bool) -> None:
    """The backward pass of a loss that is this process's share of the work, or of nothing where it does not count.

    Sharded weights need every process in every pass, and FSDP2 takes the mean over them: times their number it is the
    sum of what each gives.
    """
    if is_sharded(head.model):
        loss = loss * (head.ranks.world if counts else 0)
    elif not counts:
        return
    loss.backward()  # type: ignore[no-untyped-call]
