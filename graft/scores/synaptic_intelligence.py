"""The path integral of the loss over a training: synaptic intelligence (Zenke et al. 2017, arXiv 1703.04200).

    Omega_i = max(omega_i, 0) / (Delta_i^2 + damping)
    omega_i = -integral g_i dtheta_i,   Delta = theta(end) - theta(start)

the curvature of a parabola that falls by omega_i over Delta_i. `graft.train.importance.synaptic_intelligence` gathers
omega while a model is tuned, as arXiv 2501.13669 does on general data, and says how the damping differs from the
paper's. Scored here is its record, which holds the weights that mattered most; the others score -inf, and are never
selected.
"""

from __future__ import annotations

import torch

from graft.scores.inputs import ImportanceInput, ScoreTable


def path_importance(omega: torch.Tensor, delta: torch.Tensor, damping: float) -> torch.Tensor:
    """Return max(omega, 0) / (delta^2 + damping), elementwise in fp32."""
    return omega.clamp_min(0) / (delta.square() + damping)


def score_path(inputs: ImportanceInput) -> ScoreTable:
    """Score the recorded weights by their Omega."""
    if inputs.record is None:
        raise ValueError("the path integral needs a record of the tuning")
    return {name: score for name, score in inputs.record.items() if name in inputs.weights}
