"""The published procedure of skill localization by grafting (arXiv 2302.06600), as faithfully as it is known.

The model is theta(gamma) = gamma * theta_tuned + (1 - gamma) * theta_base with the relaxed mask

    gamma = gamma_b * (1 - sigma(S - c)) + (1 - gamma_b) * sigma(S - c),    c = 10, S_0 ~ U[0, 1),

where gamma_b, 0 or 1, marks the starting patch: the top s by |tuned - base|. Each step is plain gradient descent,

    S <- S - lr * (1 - 2 gamma_b) * mean(g * delta) * sigma'(S - c),        lr = 1e7, 100 steps,

with g the gradient of the loss at theta(gamma), over batches of up to 1,024 examples, the model in evaluation mode.
After each step the mask is rounded to gamma_b XOR (S > c), and the one with the best score over training and
validation examples is kept.

Its quirks, kept because they are the procedure: sigma' is 4.5e-5 at the start, so that lr 1e7 acts as about 450,
and an entry joins or leaves only after S has climbed all of c; nothing sets the size of the final mask (the budget
sizes the starting patch, and the final density follows from training); S and the gradients of a step are as large as
the scope, in fp32 and in host memory.
"""

from __future__ import annotations

import math

import torch
from tqdm import tqdm

from graft.errors import BudgetError, CheckpointError, ConfigError
from graft.localize.context import LocalizationContext
from graft.patch.mask import Mask
from graft.scores.gradient_path import GradientPath
from graft.scores.random import draw
from graft.specs.localize import PaperSpec
from graft.tasks.examples import Example

CUT = 10.0  # c: sigma(S - c) is, so to speak, the probability that an entry changes sides


class RelaxedMask:
    """A relaxed mask in training: S for each tensor in scope.

    Args:
        path: the live model, whose tensors in scope can be set, with its training examples.
        start: gamma_b.
        config: learning rate, steps, batch size.
        seed: of S_0 and the order of examples.
    """

    def __init__(self, path: GradientPath, start: Mask, config: PaperSpec, seed: int) -> None:
        self.path = path
        self.start = start
        self.config = config
        self.logits = {name: draw(name, path.pair.base.spec(name).numel, seed) for name in path.weights}
        self._order = torch.Generator().manual_seed(seed)

    def step(self) -> None:
        """Take one step of gradient descent on S."""
        self.path.move_to_each(self.gamma)
        # S is a logit: its gradient is that of gamma, (1 - 2 gamma_b) * sigma', times the loss's slope along delta
        order = torch.randperm(len(self.path.examples), generator=self._order).tolist()
        batch = [self.path.examples[i] for i in order[: self.config.batch_size]]
        gradients = self.path.gradients_of(batch)
        for name, logits in self.logits.items():
            delta, _ = self.path.pair.read_delta(name)
            switched = torch.sigmoid(logits - CUT)
            slope = switched * (1 - switched) * (1 - 2 * self._start_of(name))
            logits -= self.config.lr * gradients[name] * delta * slope

    def gamma(self, name: str) -> torch.Tensor:
        """Return the (n,) fp32 share of the tuned value at each entry of a tensor."""
        switched, start = torch.sigmoid(self.logits[name] - CUT), self._start_of(name)
        return start * (1 - switched) + (1 - start) * switched

    def rounded(self) -> Mask:
        """Return the mask gamma_b XOR (S > c)."""
        pair, indices = self.path.pair, {}
        for name, logits in self.logits.items():
            moved = pair.read_delta(name)[1]  # an entry that fine-tuning left alone cannot be in a patch
            inside = (self._start_of(name).bool() ^ (logits > CUT)) & moved
            indices[name] = inside.nonzero().squeeze(1).numpy()
        return Mask.of({name: pair.base.spec(name) for name in indices}, indices)

    def _start_of(self, name: str) -> torch.Tensor:
        """Return (n,) fp32 gamma_b of a tensor."""
        start = torch.zeros(self.logits[name].numel())
        start[torch.tensor(self.start[name])] = 1.0
        return start


def learn_relaxed_mask(
    path: GradientPath, start: Mask, validation: list[Example], config: PaperSpec, seed: int
) -> Mask:
    """Learn a mask by the published procedure.

    Args:
        path: the model and its training examples; its tensors in scope hold the base's values again afterwards.
        start: gamma_b, the starting patch.
        validation: the examples that masks are compared on, beside the training examples.
        config: learning rate, steps, batch size.
        seed: of S_0 and the order of examples.

    Raises:
        ConfigError: the model is not in fp32 or wider, in which gamma of 4.5e-5 would be lost.
        CheckpointError: the loss or S is not finite.
        BudgetError: the best mask is empty.
    """
    if any(weight.dtype not in (torch.float32, torch.float64) for weight in path.weights.values()):
        raise ConfigError("method 'paper' relaxes the mask, which needs --dtype float32")
    relaxed = RelaxedMask(path, start, config, seed)
    best, best_score = start, _score(path, start, validation)
    for number in (bar := tqdm(range(1, config.steps + 1), desc="paper", unit="step", disable=None)):
        relaxed.step()
        if number % config.check_every and number < config.steps:
            continue
        mask = relaxed.rounded()
        score = _score(path, mask, validation)
        bar.set_postfix(kept=len(mask), accuracy=f"{score:.3f}")
        if score > best_score:
            best, best_score = mask, score
    path.return_to_base()
    if not len(best):
        raise BudgetError("method 'paper' ended with an empty mask: lower paper.lr")
    return best


def choose_panigrahi2023(context: LocalizationContext) -> Mask:
    """Learn a mask by the published procedure; the budget sizes its starting patch, the top |delta|."""
    config = context.config
    start = context.select_by_score("magnitude")
    return learn_relaxed_mask(context.model, start, list(context.validation), config.paper, config.seed)


def _score(path: GradientPath, mask: Mask, validation: list[Example]) -> float:
    """Measure the accuracy of a graft over training and validation examples together."""
    path.move_to_graft(mask)
    examples = [*path.examples, *validation]
    accuracy = path.head.accuracy(examples, batch_size=path.batch_size, label="training and validation")
    if math.isnan(accuracy):
        raise CheckpointError("the graft's outputs are not finite")
    return accuracy
