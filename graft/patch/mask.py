"""Mask: a set of weight coordinates, per tensor the sorted unique flat (row-major) indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.arguments import checked
from graft.errors import MismatchError
from graft.files.tensor_spec import TensorSpec

Indices = npt.NDArray[np.int64]
NOTHING: Indices = np.empty(0, np.int64)
NOTHING.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Mask:
    """An immutable set of coordinates; `|`, `&`, `-` are union, intersection and difference.

    Make one with `Mask.of`, which checks what it is given.

    Attributes:
        specs: tensor name -> dtype and shape, for the tensors with entries, in ascending order of name.
        indices: tensor name -> (k,) int64 sorted unique flat indices, read-only, k >= 1.
    """

    specs: Mapping[str, TensorSpec]
    indices: Mapping[str, Indices]

    @classmethod
    @checked
    def of(cls, specs: Mapping[str, TensorSpec], indices: Mapping[str, npt.ArrayLike]) -> Mask:
        """Return a mask of any integer indices; order and repeats do not matter, empty tensors are dropped.

        Raises:
            MismatchError: an index is no whole number or lies outside its tensor, or a tensor has no spec.
        """
        clean = {name: _clean(name, specs, np.asarray(values)) for name, values in sorted(indices.items())}
        nonempty = {name: values for name, values in clean.items() if values.size}
        return cls({name: specs[name] for name in nonempty}, nonempty)

    @classmethod
    def full(cls, specs: Mapping[str, TensorSpec]) -> Mask:
        """Return the mask of every coordinate of the tensors."""
        return cls.of(specs, {name: np.arange(spec.numel) for name, spec in specs.items()})

    def __len__(self) -> int:
        return sum(values.size for values in self.indices.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self.indices)

    def __getitem__(self, name: str) -> Indices:
        """Return the indices in a tensor: empty where the mask does not touch it."""
        return self.indices.get(name, NOTHING)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same_names = self.indices.keys() == other.indices.keys()
        return same_names and all(
            self.specs[name].shape == other.specs[name].shape and np.array_equal(self[name], other[name])
            for name in self
        )

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mask) -> Mask:
        return self._combine(other, np.union1d)

    def __and__(self, other: Mask) -> Mask:
        return self._combine(other, lambda a, b: np.intersect1d(a, b, assume_unique=True))

    def __sub__(self, other: Mask) -> Mask:
        return self._combine(other, lambda a, b: np.setdiff1d(a, b, assume_unique=True))

    def complement(self, scope: Mapping[str, TensorSpec]) -> Mask:
        """Return every coordinate of the scope's tensors that is not in this mask.

        Raises:
            MismatchError: a tensor has another shape in the scope than in the mask.
        """
        return Mask.full(scope) - self

    def jaccard(self, other: Mask) -> float:
        """Return |A and B| / |A or B|; 1.0 for two empty masks."""
        union = len(self | other)
        return len(self & other) / union if union else 1.0

    def density(self, n_parameters: int) -> float:
        """Return entries / all parameters of the base (contract, section 4)."""
        return len(self) / n_parameters

    def _combine(self, other: Mask, operation: Callable[[Indices, Indices], Indices]) -> Mask:
        specs = {**other.specs, **self.specs}
        for name in self.specs.keys() & other.specs.keys():
            if self.specs[name].shape != other.specs[name].shape:
                raise MismatchError(f"tensor {name!r}: masks of shapes {self.specs[name]} and {other.specs[name]}")
        return Mask.of(specs, {name: operation(self[name], other[name]) for name in specs})

    def __repr__(self) -> str:
        return f"Mask({len(self):,} entries in {len(self.indices)} tensors)"


def _clean(name: str, specs: Mapping[str, TensorSpec], values: npt.NDArray[np.generic]) -> Indices:
    if name not in specs:
        raise MismatchError(f"tensor {name!r}: indices without a shape")
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise MismatchError(f"tensor {name!r}: indices must be whole numbers, not {values.dtype}")
    result = values.astype(np.int64, copy=True).reshape(-1)
    if result.size > 1 and not bool((result[1:] > result[:-1]).all()):
        result = np.unique(result)
    if result.size and (result[0] < 0 or result[-1] >= specs[name].numel):
        raise MismatchError(f"tensor {name!r}: an index lies outside its {specs[name].numel} elements")
    result.setflags(write=False)
    return result
