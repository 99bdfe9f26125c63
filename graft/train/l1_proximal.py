"""An L1 pull towards the base: weights that hardly matter stay exactly where they were.

After each step of the optimizer every trained weight takes the proximal step of l1 * |w - base|,

    w <- base + soft(w - base, rate * l1),   soft(x, t) = sign(x) * max(|x| - t, 0)

(proximal gradient descent; Parikh and Boyd 2014, section 4.2). Where the task's gradient stays below l1 the weight
is the base's, bit for bit; what is learned gathers in the others. AdamW divides its steps by s = sqrt(v) + eps, and so
is the threshold: the proximal step in the optimizer's own metric, rate * l1 / s. arXiv 2302.06600 adds the L1 norm to
the loss instead (about 1e-3, with AdamW), which shrinks but never reaches zero.
"""

from __future__ import annotations

import torch

from graft.tensors.checkpoint import Checkpoint
from graft.tensors.live_weight import LiveWeight
from graft.tensors.shards import local_of, shard_of
from graft.train.trainable_weights import match_trainable


class L1Proximal:
    """The pull on the trained weights of a model; the base is read from its mapped file, not held in memory.

    Args:
        model: the model in training, on which `requires_grad` says what trains.
        base: its base checkpoint. Weights that it lacks, such as a new head, are not pulled.
    """

    def __init__(self, model: torch.nn.Module, base: Checkpoint) -> None:
        self.base = base
        self.weights = match_trainable(model, base.names)

    @torch.no_grad()
    def step(self, threshold: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Take the proximal step in the metric of the optimizer; `threshold` is the learning rate times l1."""
        for name, trained in self.weights.items():
            weight = local_of(trained.values)  # each entry by itself, so that every process pulls its own piece
            base = shard_of(trained.values).cut(self.base.read(name)).to(weight.device, weight.dtype)
            moved = _shrink(weight - base, threshold, second_moment_scale(trained, optimizer))
            weight.copy_(torch.where(moved == 0, base, base + moved))


def _shrink(moved: torch.Tensor, threshold: float, scale: torch.Tensor | None) -> torch.Tensor:
    """soft(moved, threshold / scale), in one pass where the scale is 1."""
    if scale is None:
        return torch.nn.functional.softshrink(moved, threshold)
    return moved.sign() * (moved.abs() - threshold / scale).relu()


def second_moment_scale(weight: LiveWeight, optimizer: torch.optim.Optimizer | None) -> torch.Tensor | None:
    """What the optimizer divides its steps of a weight by: sqrt of the corrected second moment plus eps; None for 1."""
    state = optimizer.state.get(weight.owner, {}) if optimizer else {}
    if optimizer is None or "exp_avg_sq" not in state:
        return None
    group = optimizer.param_groups[0]
    second: torch.Tensor = local_of(weight.of(state["exp_avg_sq"])) / (1 - group["betas"][1] ** float(state["step"]))
    return second.sqrt() + float(group["eps"])
