"""The patch's commonest columns, whole: every changed entry of an input dimension of a layer.

Of the patch too changed entries alone are counted: a patch of whole lines holds others, which do nothing.

A gradient is error times input, so that plain SGD moves whole columns of large inputs, and a patch cut by size or
attribution gathers there (outlier dimensions, arXiv 2310.17715).
"""

from __future__ import annotations

import math

import numpy as np

from graft.controls.inputs import ControlInput
from graft.controls.redrawn import draw_changed
from graft.patch.mask import Indices
from graft.patch.skill_patch import Patch

MOST = 0.8  # of a matrix's changed entries


def take_whole_columns(inputs: ControlInput) -> Patch:
    """Cut whole columns of all matrices, the commonest in the patch first, until as many entries move as of the patch.

    Columns compete across matrices; ties go by name, then column. Of the last one so many random entries are taken as
    are left.
    """
    listed = [
        (-count, name, column, size)
        for name in inputs.matrices
        for _, column, count, size in _count_columns(inputs, name)
    ]
    left, quotas = sum(len(inputs.moved(name)) for name in inputs.matrices), _no_quotas(inputs)
    for _, name, column, size in sorted(listed):
        quotas[name][column] = min(size, left)
        left -= min(size, left)
    return _cut(inputs, quotas)


def take_main_columns(inputs: ControlInput) -> Patch:
    """Cut of each matrix the fewest columns with `MOST` of its changed entries in the patch, whole; ties by column."""
    quotas = _no_quotas(inputs)
    for name in inputs.matrices:
        missing = MOST * np.bincount(inputs.experts(name, inputs.moved(name)))
        for expert, column, count, size in sorted(_count_columns(inputs, name), key=lambda item: -item[2]):
            if missing[expert] > 0:
                quotas[name][column] = size
                missing[expert] -= count
    return _cut(inputs, quotas)


def _no_quotas(inputs: ControlInput) -> dict[str, Indices]:
    shapes = {name: inputs.patch.mask.specs[name].shape for name in inputs.matrices}
    return {name: np.zeros(math.prod(shape[:-2]) * max(shape[-2:]), np.int64) for name, shape in shapes.items()}


def _count_columns(inputs: ControlInput, name: str) -> list[tuple[int, int, int, int]]:
    """Return (expert, column, its changed entries in the patch, and in all) of the columns that the patch has."""
    mine, changed = inputs.moved(name), inputs.pair.changed(name).numpy()
    columns, first, own = np.unique(inputs.columns(name, mine), return_index=True, return_counts=True)
    every, experts = np.bincount(inputs.columns(name, changed))[columns], inputs.experts(name, mine[first])
    return [*zip(experts.tolist(), columns.tolist(), own.tolist(), every.tolist(), strict=True)]


def _cut(inputs: ControlInput, quotas: dict[str, Indices]) -> Patch:
    drawn = {name: draw_changed(inputs, name, ControlInput.columns, quota) for name, quota in quotas.items()}
    return inputs.cut(drawn)
