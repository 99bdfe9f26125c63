"""The least sensitive weights, in the style of TaLoS: a contrast to all scores that look for the skill.

TaLoS (Iurada, Ciccone, Tommasi 2025, arXiv 2504.02620) fine-tunes only the weights to which the pretrained model is
least sensitive, so that task vectors do not interfere. Sensitivity is the diagonal Fisher information at the base,

    score_i = -F_i,   F_i = (1/n) * sum over examples of (d log p(y | x) / d theta_i)^2,   y drawn from p(. | x)

Differences: the authors choose before training and prune in four rounds, scoring the pruned network anew each time,
and their code takes the gradient of the drawn class's logit (vision/pruners.py of iurada/talos-task-arithmetic); here
there is one round, the gradient is that of the log-likelihood as in the Fisher information, and the rule chooses among
the weights of a checkpoint that was tuned without it. No skill is expected there.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.scores.inputs import ScoreInput, ScoreTable


def score_talos(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by -F, F at the base with labels drawn from the model."""
    fisher = inputs.model.squared_gradients_at(0.0, micro_batch=inputs.micro_batch, drawn=True)
    return {name: partial(torch.neg, fisher[name]) for name in inputs.names}
