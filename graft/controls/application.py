"""Controls made and put on a model, whatever they are."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from graft.controls.constant_shift import OutputShift
from graft.controls.inputs import ControlInput, find_matrices
from graft.controls.registry import CONTROLS
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch

Graft = Patch | OutputShift


def make_control(inputs: ControlInput) -> Graft:
    """Make the control that the input names, of its patch."""
    made: Graft = CONTROLS.find(inputs.name).load()(inputs)
    return made


def put_on(model: torch.nn.Module, graft: Graft) -> contextlib.AbstractContextManager[Any]:
    """Put a patch, or what stands in for one, on a model of the base for the length of a block."""
    return apply_patch(model, graft) if isinstance(graft, Patch) else graft.put_on(model)


def measure_own_share(control: Graft, patch: Patch) -> float | None:
    """Return the share of a control's entries of matrices that are the patch's own; None where it has none there."""
    if not isinstance(control, Patch):
        return None
    n, n_own = (
        sum(len(mask[name]) for name in find_matrices(mask)) for mask in (control.mask, control.mask & patch.mask)
    )
    return n_own / n if n else None
