"""The path integral of the loss over a training: each weight's share in its fall, recorded step by step.

    omega_i = -integral g_i dtheta_i = -sum over steps of g_i(t) * (theta_i(t + 1) - theta_i(t))

(synaptic intelligence, Zenke et al. 2017, arXiv 1703.04200; recorded while tuning on general data in arXiv 2501.13669).
No backward pass is added: the gradients are those of the training's own steps, before they were clipped, and of the
loss alone: what a penalty on moving weights added is taken off again. The sum of all omega is, for small steps, by how
much the loss fell. At the end

    Omega_i = max(omega_i, 0) / (Delta_i^2 + xi * mean Delta^2),   Delta = theta(end) - theta(start)

the curvature of a parabola that falls by omega_i over Delta_i. The paper's xi is an unspecified small constant; here
it is in units of the mean squared movement, so that one default serves any learning rate and length. With xi near 0 the
weights that hardly moved win: under SGD omega and Delta^2 are then both little more than lr^2 times the noise's
power, and their ratio says nothing.

One weight over three steps, in a model whose xi * mean Delta^2 is .0225:

    g at the step    -2     -1     .5
    dtheta            .1     .1   -.05      Delta = .15
    -g * dtheta       .2     .1    .025     omega = .325: each step went down the slope, also the one back

    Omega = .325 / (.0225 + .0225) = 7.2; without the step back, .3 / (.04 + .0225) = 4.8 for a longer way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from graft.scores.inputs import ScoreTable
from graft.scores.synaptic_intelligence import path_importance
from graft.tensors.checkpoint import Checkpoint
from graft.train.importance.importance_weights import ImportanceWeights, keep_importance
from graft.train.trainable_weights import match_trainable

METHOD = "path"


class SynapticIntelligence:
    """A recorder of omega, which holds two tensors of the size of each trained weight.

    Args:
        model: the model in training, whose `requires_grad` marks the trained weights.
        base: its base checkpoint, where the path starts. Weights that it lacks, such as a new head, are left out.
        every: steps between records.
        added: what is added to the loss's gradients before each step, as functions of a weight's values, by the
            weight's memory key.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        base: Checkpoint,
        every: int = 1,
        added: Mapping[tuple[object, ...], Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> None:
        self.base = base
        self.every = every
        self.weights = match_trainable(model, base.names)
        self.omega = {name: torch.zeros_like(w.values, dtype=torch.float32) for name, w in self.weights.items()}
        self._last = {name: weight.values.clone() for name, weight in self.weights.items()}
        keys = {name: weight.memory_key for name, weight in self.weights.items()}
        self._added = {name: added[key] for name, key in keys.items() if key in added} if added else {}
        self._before: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Keep where a step to record starts from, which is where gradients are added."""
        # where every step is recorded, the last record has it
        if self.every > 1 and self._records(step):
            self._before = {name: self.weights[name].values.clone() for name in self._added}

    @torch.no_grad()
    def record(self, step: int, clipped: float) -> None:
        """Take up a step whose gradients are still there; `clipped` is the factor that clipping multiplied them by."""
        if not self._records(step):
            return
        for name, weight in self.weights.items():
            gradient = weight.grad
            if gradient is not None:
                own, scale = gradient.float(), 1 / clipped
                if name in self._added:
                    start = self._before.get(name, self._last[name])
                    own, scale = own / clipped - self._added[name](start).float(), 1.0
                back = self._last[name].sub_(weight.values)  # -(theta(t + 1) - theta(t))
                self.omega[name].addcmul_(own, back.float(), value=scale)
                back.copy_(weight.values)
        self._before = {}

    def scores(self, xi: float) -> ScoreTable:
        """Return Omega by tensor name: functions that give (n,) fp32."""
        squares = sum(float(self._movement(name).square_().double().sum()) for name in self.weights)
        mean = squares / sum(weight.values.numel() for weight in self.weights.values())
        damping = xi * mean or 1.0  # where nothing moved, nothing matters
        return {name: partial(self._score, name, damping) for name in self.weights}

    def keep(self, share: float, xi: float) -> ImportanceWeights:
        """Keep the weights that matter most at the end, with their present values as anchor.

        Raises:
            BudgetError: no weight's movement brought the loss down.
        """
        weights = {name: weight.values for name, weight in self.weights.items()}
        return keep_importance(self.scores(xi), weights, share, METHOD)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an interrupted training needs to go on."""
        return {"omega": self.omega, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name in self.weights:
            self.omega[name].copy_(state["omega"][name])
            self._last[name].copy_(state["last"][name])

    def _records(self, step: int) -> bool:
        return (step + 1) % self.every == 0

    def _movement(self, name: str) -> torch.Tensor:
        return self.weights[name].values.float().cpu() - self.base.read(name).float()

    def _score(self, name: str, damping: float) -> torch.Tensor:
        return path_importance(self.omega[name].cpu(), self._movement(name), damping).flatten()
