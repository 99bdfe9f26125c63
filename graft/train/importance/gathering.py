"""Means over micro-batches of a function of their gradients, streamed: one tensor's gradient at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from tqdm import tqdm

from graft.errors import CheckpointError
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.live_weight import LiveWeight, find_owners, group_by_owner

Gradients = dict[str, torch.Tensor]


class GradientMean:
    """(1/n) * sum over micro-batches of b examples of b * f(gradient of their mean loss), elementwise.

    A hook takes each tensor's gradient as soon as the backward pass has it, adds f of it to the tensor's fp32 sum, and
    frees it: what is held is the sums, and one gradient.

    Args:
        head: the model with its task; it is in evaluation mode and takes no gradients but these meanwhile.
        weights: name -> live tensor.
        examples: n of them.
        micro_batch: b, at least 1.
    """

    def __init__(
        self, head: Head, weights: Mapping[str, torch.Tensor], examples: Sequence[Example], micro_batch: int
    ) -> None:
        self.head = head
        self.weights = weights
        self.examples = sorted(examples, key=lambda example: example.n_characters)  # saves padding
        self.micro_batch = micro_batch
        self._owned = group_by_owner(find_owners(head.model, weights))
        self._share = 0.0

    def of(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Gradients:
        """Name -> (n,) fp32 mean of the function of a flat fp32 gradient; 0 where the loss does not use a tensor.

        Raises:
            CheckpointError: the loss is not finite.
        """
        sums = {name: torch.zeros(weight.numel(), device=weight.device) for name, weight in self.weights.items()}
        self._prepare()
        hooks = [
            owner.register_post_accumulate_grad_hook(partial(self._take, sums, named, function))  # type: ignore[no-untyped-call]
            for owner, named in self._owned
        ]
        try:
            for start in tqdm(
                range(0, len(self.examples), self.micro_batch), desc="gradients", disable=None, leave=False
            ):
                self._backward(self.examples[start : start + self.micro_batch])
        finally:
            for hook in hooks:
                hook.remove()
        return {name: total.cpu() for name, total in sums.items()}

    def _prepare(self) -> None:
        wanted = {id(owner) for owner, _ in self._owned}
        for weight in self.head.model.parameters():
            weight.requires_grad_(id(weight) in wanted)
            weight.grad = None
        self.head.model.eval()

    def _backward(self, batch: Sequence[Example]) -> None:
        self._share = len(batch) / len(self.examples)
        loss = self.head.loss(batch)
        if not torch.isfinite(loss):
            raise CheckpointError(f"the loss is {loss.item()}: importance cannot be measured on this model")
        loss.backward()  # type: ignore[no-untyped-call]

    def _take(
        self,
        sums: Gradients,
        named: Mapping[str, LiveWeight],
        function: Callable[[torch.Tensor], torch.Tensor],
        weight: torch.Tensor,
    ) -> None:
        assert weight.grad is not None
        gradient, weight.grad = weight.grad.detach(), None
        for name, part in named.items():
            sums[name].add_(function(part.of(gradient).float().flatten()), alpha=self._share)
