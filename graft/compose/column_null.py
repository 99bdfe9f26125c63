"""Overlap by chance of masks that keep the counts of every column, an input dimension of a layer, in each tensor.

A column of k1c and k2c entries and of so many rows gives k1c k2c / rows. The base's modules tell which axis of a stored
matrix numbers its inputs (`graft.tensors.transposed`): the second, but of a Conv1D and of embeddings, by token, the
first. Without the base, chance by column is unknown where two masks touch a matrix that may be a Conv1D's, or packed
experts. Each expert is a matrix of its own; of a convolution, a column is an input channel at a place in the kernel;
a vector is one column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graft.compose.clusters import Matrix
from graft.files.location import locate
from graft.files.tensor_spec import TensorSpec
from graft.patch.compatibility import check_specs
from graft.patch.index_join import Ints
from graft.patch.mask import Indices
from graft.patch.merge import StoredTarget
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.transposed import find_told_axes, guess_input_axis, has_inputs, packs_experts

Shape = tuple[int, ...]
Axes = Mapping[str, int]


def find_axes(specs: Mapping[str, TensorSpec], base: str | Path | None) -> dict[str, int]:
    """Return which axis of each tensor's matrices its inputs number, 0 or 1; a tensor of which none tells is left out.

    Args:
        specs: tensor -> dtype and shape.
        base: the base, whose modules tell; without it names alone do.

    Raises:
        PatchMismatchError: the base has no such tensors.
        CheckpointError: it cannot be found or read.
    """
    axes = {name: guess_input_axis(name, spec.shape) for name, spec in specs.items()}
    if base is not None:
        checkpoint = Checkpoint.open(locate(base).path)
        check_specs(specs, {}, (), StoredTarget(checkpoint), cast=True).require(str(base))
        axes |= find_told_axes(checkpoint, [name for name, spec in specs.items() if has_inputs(name, spec.shape)])
    return {name: axis for name, axis in axes.items() if axis is not None}


def view_matrices(name: str, shape: Shape) -> tuple[int, int, int]:
    """Return a tensor as matrices of one size, one after another in flat indices: how many, and their two axes."""
    if packs_experts(name, shape):
        return shape[0], shape[1], shape[2]
    return (1, shape[0], math.prod(shape[1:])) if has_inputs(name, shape) else (1, math.prod(shape), 1)


def expect_by_column(matrices: tuple[int, int, int], indices: Sequence[Indices], axis: int | None) -> Matrix:
    """Return (m, m) overlaps to expect of one tensor where each column's entries lie at random rows.

    Args:
        matrices: of the tensor, as `view_matrices` gives them.
        indices: (k,) flat indices of each of m masks.
        axis: which its inputs number; None where it is not known, and neither is what to expect: NaN.
    """
    m = len(indices)
    if axis is None:
        return np.full((m, m), np.nan)
    present, columns = np.unique(_number_columns(np.concatenate(indices), matrices, axis), return_inverse=True)
    counts = np.zeros((m, len(present)))
    np.add.at(counts, (np.repeat(np.arange(m), [len(part) for part in indices]), columns), 1)
    expected: Matrix = counts @ counts.T / matrices[2 - axis]
    return expected


def _number_columns(indices: Indices, matrices: tuple[int, int, int], axis: int) -> Ints:
    """Return the column, counted over all matrices, of each of (k,) flat indices."""
    _, n_first, n_second = matrices
    if axis == 1:
        return indices // (n_first * n_second) * n_second + indices % n_second
    return indices // n_second
