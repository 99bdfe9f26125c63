"""Patches redrawn at random within what the patch has in common with its own columns, rows or tensors.

All take tuned values and draw among changed entries: one that did not change would say less than it seems. They draw
the patch's own entries only where no others are left: a quarter of the patch, as chance would bring into its crowded
columns, does nearly all that was taken for the columns' doing. In every matrix they have exactly as many entries as the
patch has changed ones there, so that they move as many weights as it moves; only a patch of whole lines holds unchanged
entries beside, which do nothing and are not counted. Random rows in the patch's own columns keep which input dimensions
it reads, and how often; random columns in its own rows keep which outputs it writes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graft.controls.inputs import ControlInput
from graft.patch.mask import Indices
from graft.patch.skill_patch import Patch
from graft.scores.random import draw

Grouping = Callable[[ControlInput, str, Indices], Indices]


def redraw_rows(inputs: ControlInput) -> Patch:
    """Cut random rows: as many as the patch has changed entries in each column of each matrix."""
    return _redraw(inputs, ControlInput.columns)


def redraw_columns(inputs: ControlInput) -> Patch:
    """Cut random columns: as many as the patch has changed entries in each row of each matrix."""
    return _redraw(inputs, ControlInput.rows)


def redraw_entries(inputs: ControlInput) -> Patch:
    """Cut random entries: as many as the patch has changed entries in each matrix."""
    return _redraw(inputs, ControlInput.experts)


def _redraw(inputs: ControlInput, group: Grouping) -> Patch:
    indices = {}
    for name in inputs.matrices:
        quotas = np.bincount(group(inputs, name, inputs.moved(name)), minlength=1)
        indices[name] = draw_changed(inputs, name, group, quotas, last=inputs.patch.mask[name])
    return inputs.cut(indices)


def draw_changed(
    inputs: ControlInput, name: str, group: Grouping, quotas: Indices, last: Indices | None = None
) -> Indices:
    """Draw changed entries of a matrix at random, of each group as many as its quota; return their flat indices.

    Those that `last` lists are drawn only where a group has no others left.
    """
    changed = inputs.pair.changed(name).numpy()
    keys = draw(f"{inputs.name}\0{name}", inputs.patch.mask.specs[name].numel, inputs.seed).numpy()[changed]
    if last is not None:
        keys = keys + np.isin(changed, last).astype(np.float32)  # keys are below 1
    drawn: Indices = changed[draw_quotas(group(inputs, name, changed), quotas, keys)]
    return drawn


def draw_quotas(groups: Indices, quotas: Indices, keys: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Indices:
    """Draw of each group as many candidates as its quota, those of the smallest keys.

    Args:
        groups: (n,) the group of each candidate.
        quotas: (g,) how many to draw of each group; none of groups beyond.
        keys: (n,) random keys; ties go to the earlier candidate.

    Returns:
        Positions of the drawn candidates, ascending; all of a group where its quota is more than it has.
    """
    possible = np.flatnonzero((groups < len(quotas)) & (quotas[np.minimum(groups, len(quotas) - 1)] > 0))
    order = possible[np.lexsort((keys[possible], groups[possible]))]
    sorted_groups = groups[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_groups, sorted_groups)  # within its group
    drawn: Indices = np.sort(order[place < quotas[sorted_groups]])
    return drawn
