"""The L1 proximal step towards the base: weights that hardly matter to the task stay exactly where they were.

After each step of the optimizer every trained weight takes the proximal step of l1 * |w - base|,

    w <- base + soft(w - base, lr * l1),   soft(x, t) = sign(x) * max(|x| - t, 0)

(proximal gradient descent; Parikh and Boyd 2014, section 4.2). Where the task's gradient stays below l1 the weight is
the base's, bit for bit; what is learned gathers in the others. AdamW divides its steps by s = sqrt(v) + eps, and the
threshold is divided likewise, lr * l1 / s: the proximal step in the optimizer's own metric. arXiv 2302.06600 adds the
L1 norm to the loss instead (about 1e-3, with AdamW), which shrinks deltas but never to zero.

Five weights after the optimizer's step, at a threshold lr * l1 = .2:

    w - base    (.5, -.3, .1, -.15, 0)
    soft        (.3, -.1, 0,  0,    0)    the last three are the base's bits again
"""

from __future__ import annotations

import torch

from graft.tensors.checkpoint import Checkpoint
from graft.tensors.live_weight import LiveWeight
from graft.tensors.shards import local_of, shard_of
from graft.train.trainable_weights import match_trainable


class L1Proximal:
    """The L1 proximal step on a model's trained weights; the base is read from its mapped file, not held in memory.

    Args:
        model: the model in training, whose `requires_grad` marks the trained weights.
        base: its base checkpoint. Weights that it lacks, such as a new head, take no proximal step.
    """

    def __init__(self, model: torch.nn.Module, base: Checkpoint) -> None:
        self.base = base
        self.weights = match_trainable(model, base.names)

    @torch.no_grad()
    def step(self, threshold: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Take the proximal step in the metric of the optimizer; `threshold` is the learning rate times l1."""
        for name, trained in self.weights.items():
            weight = local_of(trained.values)  # entries are independent, so that every process steps on its own shard
            base = shard_of(trained.values).cut(self.base.read(name)).to(weight.device, weight.dtype)
            delta = _shrink(weight - base, threshold, second_moment_scale(trained, optimizer))
            weight.copy_(torch.where(delta == 0, base, base + delta))


def _shrink(delta: torch.Tensor, threshold: float, scale: torch.Tensor | None) -> torch.Tensor:
    """Return soft(delta, threshold / scale), in one pass where the scale is 1."""
    if scale is None:
        return torch.nn.functional.softshrink(delta, threshold)
    return delta.sign() * (delta.abs() - threshold / scale).relu()


def second_moment_scale(weight: LiveWeight, optimizer: torch.optim.Optimizer | None) -> torch.Tensor | None:
    """Return what divides a weight's steps, sqrt of the optimizer's corrected second moment plus eps; None for 1."""
    state = optimizer.state.get(weight.owner, {}) if optimizer else {}
    if optimizer is None or "exp_avg_sq" not in state:
        return None
    group = optimizer.param_groups[0]
    second: torch.Tensor = local_of(weight.of(state["exp_avg_sq"])) / (1 - group["betas"][1] ** float(state["step"]))
    return second.sqrt() + float(group["eps"])
