"""The gradient engine: gradients of a task's loss, handed to a sink tensor by tensor and freed at once.

Every gradient that localization, importance and task similarity use comes from here. The backward pass of a model
makes the gradients one tensor after another, last layer first. A hook on each tensor hands its gradient to a sink and
drops it before the next one is made, so that at most one is alive at a time, whatever the model's size. Only what the
sink keeps stays: a number per candidate or, for a dense sum, 4 bytes per weight of host memory.

Three examples in micro-batches of two, with `DenseSum`, whose factors b / n make a mean over the examples:

    micro-batch    loss                 hook on w           w.grad afterwards    sink.sums["w"]
    [x1, x2]       2/3 * mean loss      hands over .4       None                 .4
    [x3]           1/3 * loss           hands over -.1      None                 .3 = the gradient of the mean of 3
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from tqdm import tqdm

from graft.errors import CheckpointError
from graft.parallel.sharded import is_sharded
from graft.tasks.examples import Example, sort_by_length
from graft.tasks.head import Head
from graft.tensors.live_weight import LiveWeight, find_owners, group_by_owner
from graft.tensors.shards import local_of, shard_of

Gradients = dict[str, torch.Tensor]  # name -> (n,) fp32 on the CPU


class GradientSink(ABC):
    """A receiver of gradients, one micro-batch after another, which keeps only what it needs of them."""

    def start_batch(self, n_examples: int) -> None:  # noqa: B027 - most sinks need nothing here
        """Prepare for a micro-batch of so many examples."""

    @abstractmethod
    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Take the gradient of a weight, in its shape, dtype and device; it is freed when this returns."""

    def end_batch(self, *, counts: bool = True) -> None:  # noqa: B027 - most sinks need nothing here
        """Close a micro-batch, when the gradient of every weight that it touches has been received.

        Over several processes all end their micro-batches together; `counts` is off on a process that had none.
        """


class DenseSum(GradientSink):
    """The sum of all gradients: 4 bytes per weight of host memory.

    Attributes:
        sums: name -> (n,) fp32 on the CPU; zeros for a weight that no loss touches, such as a pooler's, and in the
            shards of others.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.sums = {name: torch.zeros(weight.numel()) for name, weight in weights.items()}

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Add it."""
        shard = shard_of(gradient)
        shard.cut(self.sums[name].view(shard.shape)).add_(local_of(gradient).float().cpu())


class DenseSquares(DenseSum):
    """The sum of the squares of all gradients, each of one micro-batch: 4 bytes per weight of host memory."""

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Add its square."""
        gradient = gradient.float().flatten().cpu()
        self.sums[name].addcmul_(gradient, gradient)


class DenseMean(GradientSink):
    """The mean over n examples of a function of their micro-batch's gradient: 4 bytes per weight on its device.

    Args:
        weights: name -> live tensor.
        function: of a flat fp32 gradient, elementwise.
        n: how many examples there are.
    """

    def __init__(
        self, weights: Mapping[str, torch.Tensor], function: Callable[[torch.Tensor], torch.Tensor], n: int
    ) -> None:
        self._function, self._n, self._share = function, n, 0.0
        self._sums = {name: torch.zeros(weight.numel(), device=weight.device) for name, weight in weights.items()}

    def start_batch(self, n_examples: int) -> None:
        """Set the weight of the next gradients, the micro-batch's share of the examples."""
        self._share = n_examples / self._n

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Add the function of it, times the share."""
        self._sums[name].add_(self._function(gradient.float().flatten()), alpha=self._share)

    @property
    def means(self) -> Gradients:
        """Name -> (n,) fp32 on the CPU; 0 where the loss does not use a tensor."""
        return {name: total.cpu() for name, total in self._sums.items()}


class MicroBatch(NamedTuple):
    """The examples of one forward and backward pass, and the factor of their mean loss."""

    examples: Sequence[Example]
    factor: float = 1.0


def split_examples(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    """Return the examples in runs of `size`, the last one possibly shorter."""
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def stream_gradients(
    head: Head,
    weights: Mapping[str, torch.Tensor],
    sink: GradientSink,
    batches: Sequence[MicroBatch],
    *,
    offsets: torch.Tensor | None = None,
    loss_of: Callable[[Sequence[Example]], torch.Tensor] | None = None,
    label: str = "gradients",
    context: str = "",
) -> None:
    """Run one backward pass a micro-batch, in evaluation mode, dealt out to processes.

    Args:
        head: the model with its task.
        weights: name -> live tensor, whose gradients are wanted; no other takes any.
        sink: receives them, micro-batch by micro-batch, tensor by tensor.
        batches: gradients are those of their mean losses times their factors.
        offsets: (n_labels,) added to the logits, on the head's device.
        loss_of: another mean loss of a micro-batch than the head's; it knows no offsets.
        label: of the progress bar.
        context: the rest of the sentence "the loss is nan…", such as the point at which the weights are.

    Raises:
        CheckpointError: a loss is not finite.
    """
    head.model.eval()
    with capture_gradients(head.model, weights, sink):
        for batch, counts in tqdm(head.ranks.shard(batches), desc=label, disable=None, leave=False):
            mean = head.loss(batch.examples, offsets) if loss_of is None else loss_of(batch.examples)
            loss = mean * batch.factor
            if not torch.isfinite(loss):
                raise CheckpointError(f"the loss is {loss.item()}{context}")
            sink.start_batch(len(batch.examples))
            backpropagate(head, loss, counts)
            sink.end_batch(counts=counts or is_sharded(head.model))


def sum_mean_gradients(
    head: Head,
    weights: Mapping[str, torch.Tensor],
    sink: DenseSum,
    examples: Sequence[Example],
    batch_size: int,
    *,
    n: int | None = None,
    loss_of: Callable[[Sequence[Example]], torch.Tensor] | None = None,
) -> None:
    """Add the gradient of the sum of examples' losses over n, by which a process adds its own micro-batches alone.

    Args:
        head, weights, sink, loss_of: as in `stream_gradients`.
        examples: in any order; those of similar length share a micro-batch, which saves padding.
        batch_size: of the micro-batches, on which the gradient does not depend beyond rounding.
        n: number of examples of the mean; that of these where absent.

    Raises:
        CheckpointError: a loss or a gradient is not finite.
    """
    ordered = _order_counted(head, examples)
    share = len(examples) / (n or len(examples))
    batches = [MicroBatch(part, share * head.share(part, ordered)) for part in split_examples(ordered, batch_size)]
    stream_gradients(head, weights, sink, batches, loss_of=loss_of, label="support")
    for name, total in sink.sums.items():  # the backward pass of a finite loss may overflow
        if not torch.isfinite(total).all():
            raise CheckpointError(f"tensor {name!r}: its gradient is not finite")


@contextlib.contextmanager
def capture_gradients(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], sink: GradientSink
) -> Iterator[GradientSink]:
    """Give the gradients of `weights` to a sink in every backward pass within a block; no tensor keeps its own.

    Other parameters take no gradient, within it and afterwards.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    lock = threading.Lock()  # a model on several devices runs its hooks in as many threads
    hooks = []
    # a weight of the files may be a part of a live parameter, such as one expert of a packed tensor: the hook is on
    # the owner, and hands over each part under its own name
    owners = group_by_owner(find_owners(model, weights))
    for owner, named in owners:
        owner.requires_grad_(True)
        hook = partial(_hand_over, sink, lock, named)
        hooks.append(owner.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield sink
    finally:
        for hook in hooks:
            hook.remove()
        for owner, _ in owners:
            owner.grad = None


def _hand_over(sink: GradientSink, lock: threading.Lock, named: Mapping[str, LiveWeight], weight: torch.Tensor) -> None:
    assert weight.grad is not None
    with lock:
        for name, part in named.items():
            sink.receive(name, part.of(weight.grad.detach()))
    weight.grad = None


def backpropagate(head: Head, loss: torch.Tensor, counts: bool) -> None:
    """Run the backward pass of a loss that is this process's share of the work, or of no work where it does not count.

    Sharded weights need every process in every pass, and FSDP2 takes the mean over them: times their number it is the
    sum of what each gives.
    """
    if is_sharded(head.model):
        loss = loss * (head.ranks.world if counts else 0)
    elif not counts:
        return
    loss.backward()  # type: ignore[no-untyped-call]


class GradientMean:
    """(1/n) * sum over micro-batches of b examples of b * f(gradient of their mean loss), elementwise.

    Args:
        head: the model with its task; it is in evaluation mode and takes no gradients but these meanwhile.
        weights: name -> live tensor.
        examples: the n examples.
        micro_batch: b, at least 1.
    """

    def __init__(
        self, head: Head, weights: Mapping[str, torch.Tensor], examples: Sequence[Example], micro_batch: int
    ) -> None:
        self.head = head
        self.weights = weights
        self.examples = _order_counted(head, examples)
        self.micro_batch = micro_batch

    def of(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Gradients:
        """Return the means of a function of a flat fp32 gradient: name -> (n,) fp32, 0 where the loss uses no tensor.

        Raises:
            CheckpointError: the loss is not finite.
        """
        sink = DenseMean(self.weights, function, len(self.examples))
        batches = [MicroBatch(part) for part in split_examples(self.examples, self.micro_batch)]
        context = ": importance cannot be measured on this model"
        stream_gradients(self.head, self.weights, sink, batches, context=context)
        return sink.means


def _order_counted(head: Head, examples: Sequence[Example]) -> list[Example]:
    """Return the examples that have a loss, by length, which saves padding."""
    return sort_by_length(head.with_outputs(examples))
