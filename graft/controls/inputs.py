"""ControlInput: a patch and what it was cut from, and where the columns of its matrices lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graft.patch.mask import Indices, Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch, cut_patch
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.tensors.transposed import find_input_axes, find_told_axes, holds_matrices, packs_experts


def find_matrices(mask: Mask) -> tuple[str, ...]:
    """Return the tensors of a mask that have rows and columns."""
    return tuple(name for name, spec in mask.specs.items() if holds_matrices(name, spec.shape))


@dataclass(frozen=True)
class ControlInput:
    """Everything that a control is made of.

    Attributes:
        name: of the control.
        patch: whose control it is.
        pair: base and tuned checkpoint, from which the patch was cut.
        task: whose texts and labels are used by controls that need them.
        seed: of what is drawn at random.
        runtime: where and in what precision models run.
    """

    name: str
    patch: Patch
    pair: CheckpointPair
    task: Task
    seed: int = 0
    runtime: Runtime = DEFAULT

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """Tensors of the patch that have rows and columns (`find_matrices`).

        Biases and norms have no columns, and a convolution more than one kind of them: every control by columns or rows
        keeps those entries as the patch has them, and `vectors_only` says what they reach alone. So it is with packed
        experts of which nothing tells which axis is their input.
        """
        found, specs = find_matrices(self.patch.mask), self.patch.mask.specs
        packed = {name for name in found if packs_experts(name, specs[name].shape)}
        untold = packed - find_told_axes(self.pair.base, sorted(packed)).keys() if packed else packed
        return tuple(name for name in found if name not in untold)

    @cached_property
    def vectors(self) -> tuple[str, ...]:
        """The patch's other tensors."""
        return tuple(name for name in self.patch.mask if name not in self.matrices)

    def moved(self, name: str) -> Indices:
        """Return the patch's entries of a tensor that tuning changed, as flat indices, ascending.

        A patch of whole lines has others too, which hold the base's values and do nothing.
        """
        return np.intersect1d(self.patch.mask[name], self.pair.changed(name).numpy(), assume_unique=True)

    @property
    def n_moved(self) -> int:
        """The number of the patch's entries that tuning changed."""
        return sum(len(self.moved(name)) for name in self.patch.mask)

    @cached_property
    def _axes(self) -> Mapping[str, int]:
        return find_input_axes(self.pair.base, self.matrices)

    def columns(self, name: str, indices: Indices) -> Indices:
        """Return (k,) the column, an input dimension or a token, of entries of a matrix, given by flat indices.

        Those of packed experts are numbered on from one expert to the next, as their rows are: no two share a line.
        """
        return self._split(name, indices)[0]

    def rows(self, name: str, indices: Indices) -> Indices:
        """Return (k,) the row, an output dimension, of entries of a matrix, given by flat indices."""
        return self._split(name, indices)[1]

    def experts(self, name: str, indices: Indices) -> Indices:
        """Return (k,) which of the matrices that a tensor packs each entry lies in; 0 where it is one matrix."""
        n_first, n_second = self.patch.mask.specs[name].shape[-2:]
        return indices // (n_first * n_second)

    def _split(self, name: str, indices: Indices) -> tuple[Indices, Indices]:
        n_second = self.patch.mask.specs[name].shape[-1]
        # flat indices by themselves number the first axis on from one expert to the next
        first, second = indices // n_second, self.experts(name, indices) * n_second + indices % n_second
        return (second, first) if self._axes[name] else (first, second)

    def cut(self, indices: Mapping[str, Indices]) -> Patch:
        """Cut the tuned values at entries of the matrices, beside the patch's own entries of other tensors."""
        mask = self.patch.mask
        mine = {name: mask[name] for name in self.vectors}
        return cut_patch(self.pair, Mask.of(mask.specs, {**mine, **indices}), self.describe())

    def describe(self, **more: Any) -> Provenance:
        """Return the patch's provenance, with the control as its method and the patch's own method within."""
        of = self.patch.provenance
        kept = sum(len(self.patch.mask[name]) for name in self.vectors)
        method = {"method": self.name, "seed": self.seed, "kept_outside_matrices": kept, **more}
        return dataclasses.replace(of, method={**method, "of": dict(of.method)}, metrics=None, result=None)
