"""Random entries with trained values: what as many weights can do that nobody located.

After SpaRTA (Rios et al. 2025, arXiv 2502.15975), which trains a random sparse set of weights on the labels; here by
the refit's optimizer, with the validation split choosing the epoch.
"""

from __future__ import annotations

from graft.controls.inputs import ControlInput
from graft.patch.skill_patch import Patch
from graft.refit.refit import refit_skill
from graft.specs.refit import RefitSpec

EPOCHS = 8  # of labels there are some hundreds


def train_random(inputs: ControlInput) -> Patch:
    """Train the values of as many random entries of the patch's scope as the patch moves, on the task's labels."""
    config = RefitSpec(
        support="random",
        budget=inputs.n_moved,
        scope=inputs.patch.provenance.scope or "all",
        labels=1.0,
        epochs=EPOCHS,
        seed=inputs.seed,
    )
    return refit_skill(inputs.pair.base.path, inputs.pair.tuned.path, inputs.task, config, **inputs.runtime.options)
