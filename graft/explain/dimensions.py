"""Entries by dimension: of one tensor, and of the residual stream over all layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.explain.residual import Place, Role
from graft.explain.sharing import Sharing, share_inputs, share_outputs
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Indices
from graft.patch.vertex_cover import rank_of
from graft.tensors.scope import layer_of

SHOWN = 5  # dimensions of one tensor's side
DRAWS = 20  # of random masks, for the share of their commonest dimensions


@dataclass(frozen=True, eq=False)
class Side:
    """Entries of a tensor by the dimensions of one of its sides.

    Attributes:
        counts: (size,) int64 entries of each dimension.
        sharing: pairs of entries in one dimension; None of vectors.
    """

    counts: Indices
    sharing: Sharing | None = None

    def commonest(self, n: int = SHOWN) -> list[tuple[int, int]]:
        """Return up to n dimensions with entries, as (dimension, entries), the most entries first."""
        order = np.argsort(-self.counts, kind="stable")[:n]
        return [(int(i), int(self.counts[i])) for i in order if self.counts[i]]

    def to_json(self) -> dict[str, Any]:
        """Return the number of dimensions, those touched, the commonest ones and how they are shared."""
        k = int(self.counts.sum())
        top = [{"dimension": i, "k": n, "share": n / k} for i, n in self.commonest()]
        plain = {"dimensions": len(self.counts), "touched": int((self.counts > 0).sum()), "commonest": top}
        return plain if self.sharing is None else plain | {"sharing": self.sharing.to_json()}


@dataclass(frozen=True, eq=False)
class TensorEntries:
    """What a mask has of one tensor.

    Attributes:
        name: the base's.
        place: at the residual stream.
        spec: dtype and shape.
        k: entries.
        inputs, outputs: of a matrix; of an embedding rows are its inputs. None where a tensor has no such side.
        rank: of a matrix, the lines that hold all entries; the largest of packed experts.
    """

    name: str
    place: Place
    spec: TensorSpec
    k: int
    inputs: Side | None = None
    outputs: Side | None = None
    rank: int | None = None

    @property
    def stream(self) -> Indices | None:
        """(width,) entries by dimension of the residual stream; None where it does not meet it."""
        role, side = self.place.role, self.inputs if self.place.role == "reads" else self.outputs
        return None if role in ("within", "unknown") or side is None else side.counts

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain: dict[str, Any] = {"k": self.k, "shape": list(self.spec.shape), "kind": self.place.kind}
        plain |= {"role": self.place.role, **({"why": self.place.why} if self.place.why else {})}
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        plain |= {key: side.to_json() for key, side in sides.items() if side is not None}
        return plain if self.rank is None else plain | {"rank": self.rank}


def count_entries_of(name: str, indices: Indices, spec: TensorSpec, place: Place) -> TensorEntries:
    """Count a tensor's entries, (k,) flat indices, by its dimensions."""
    k = len(indices)
    if place.kind in ("norm", "bias"):
        size = spec.shape[-1]  # of a vector, or of each of packed ones
        return TensorEntries(name, place, spec, k, outputs=Side(np.bincount(indices % size, minlength=size)))
    if place.kind == "other":
        return TensorEntries(name, place, spec, k)
    shape = spec.shape[-2:]
    first, second = np.divmod(indices % (shape[0] * shape[1]), shape[1])
    if place.kind == "embedding":
        tokens, dimensions = (np.bincount(x, minlength=n) for x, n in zip((first, second), shape, strict=True))
        return TensorEntries(name, place, spec, k, Side(tokens), Side(dimensions), rank_of(indices, shape))
    rows, columns = (second, first) if place.transposed else (first, second)
    n_rows, n_columns = shape[::-1] if place.transposed else shape
    inputs = outputs = Sharing()
    rank = 0
    for chosen in _by_expert(indices, shape):
        inputs += share_inputs(columns[chosen], n_rows, n_columns)
        outputs += share_outputs(rows[chosen], columns[chosen], n_rows)
        rank = max(rank, rank_of(indices[chosen] % (shape[0] * shape[1]), shape))
    sides = Side(np.bincount(columns, minlength=n_columns), inputs), Side(np.bincount(rows, minlength=n_rows), outputs)
    return TensorEntries(name, place, spec, k, *sides, rank)


def _by_expert(indices: Indices, shape: Sequence[int]) -> list[slice]:
    """Return the entries of each matrix of a tensor, one after another in flat indices, as slices."""
    experts = indices // (shape[0] * shape[1])
    starts = np.flatnonzero(np.diff(experts, prepend=-1))
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True)]


def add_by_layer(tensors: Iterable[TensorEntries], roles: Iterable[Role]) -> dict[str, Indices]:
    """Add up entries by dimension of the residual stream: layer -> (width,), in the tensors' order."""
    layers: dict[str, Indices] = {}
    roles = set(roles)
    for tensor in tensors:
        if tensor.place.role in roles and tensor.stream is not None:
            layer = layer_of(tensor.name)
            layers[layer] = layers.get(layer, 0) + tensor.stream
    return layers


@dataclass(frozen=True)
class Commonest:
    """The commonest dimensions of several tensors' inputs together.

    Attributes:
        counts: dimension -> entries, the most first.
        tensors: dimension -> tensors with an entry in it.
        k, share: entries in them, and their share of all.
        by_chance: the share that random entries, as many in each tensor, have in their own commonest so many
            dimensions; the mean over drawn masks.
        effective: number of dimensions that would have this concentration, had they as many entries each.
    """

    counts: Mapping[int, int]
    tensors: Mapping[int, int]
    k: int
    share: float
    by_chance: float
    effective: float


def find_commonest(tensors: Sequence[TensorEntries], most: int = 8) -> Commonest | None:
    """Find the commonest input dimensions of readers, as many as `effective` says and at most `most`.

    Random masks are drawn with seed 0. None where no reader has an entry.
    """
    sides = [tensor.inputs.counts for tensor in tensors if tensor.inputs is not None]
    if not sides:
        return None
    pooled = np.sum(sides, axis=0)
    k = int(pooled.sum())
    effective = k * k / float((pooled.astype(float) ** 2).sum())
    top = Side(pooled).commonest(max(1, min(most, round(effective))))
    return Commonest(
        counts=dict(top),
        tensors={i: int(sum(side[i] > 0 for side in sides)) for i, _ in top},
        k=(in_top := sum(n for _, n in top)),
        share=in_top / k,
        by_chance=_draw_share(tensors, len(top)) / k,
        effective=effective,
    )


def _draw_share(tensors: Sequence[TensorEntries], n: int) -> float:
    """Return the mean number of entries in the n commonest input dimensions of random masks."""
    draw = np.random.default_rng(0)
    total: Any = 0
    for tensor in tensors:
        assert tensor.inputs is not None
        width = len(tensor.inputs.counts)
        cells = tensor.spec.numel
        if cells < 10**9:  # what numpy's sampler takes; beyond, a repeated entry is rarer than one in a thousand
            column = np.full(width, cells // width)
            total = total + draw.multivariate_hypergeometric(column, tensor.k, size=DRAWS, method="marginals")
        else:
            total = total + draw.multinomial(tensor.k, np.full(width, 1 / width), size=DRAWS)
    return float(np.sort(total, axis=1)[:, -n:].sum(axis=1).mean())
