"""Overlap of regions, beside what chance would give under four nulls, each of which keeps more than the one before.

Masks favor the same tensors, so that k1 k2 / N understates what two unrelated skills share. By tensor the counts in
each are kept: E = sum over tensors of k1t k2t / nt, nt the tensor's size, with the variance of that many hypergeometric
draws. Within a tensor masks favor the same columns, the input dimensions that are large for any text: by column
(`graft.compose.column_null`) E = sum over columns of k1c k2c / rows, and what is left above it is that masks favor the
same rows in them. By degrees the counts of every row and of every column are kept (`graft.compose.degree_null`): what
is left above it are pairings of a row with a column. The ceiling, one task over two seeds, is a pair like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graft.arguments import checked
from graft.compose.base_values import join_specs, require_one_base
from graft.compose.clusters import Join, Matrix, clusters_at, single_linkage
from graft.compose.column_null import Axes, expect_by_column, find_axes, view_matrices
from graft.compose.degree_null import MOST_ENTRIES, SAMPLES, DegreeNull
from graft.compose.source_names import unify_names
from graft.compose.sources import Source, open_sources
from graft.errors import ConfigError
from graft.patch.index_join import Ints, count_overlaps, join_indices
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.patch.summary import natural_key
from graft.specs.reader import to_plain
from graft.tensors.scope import layer_of
from graft.tensors.transposed import has_inputs

THRESHOLD = 0.1  # CPI-FT joins tasks from this Jaccard similarity on (arXiv 2508.21741)

MAY_BE_UNKNOWN = (
    *("expected", "z_by_tensor", "expected_by_column"),
    *("expected_by_degrees", "low_by_degrees", "high_by_degrees", "z_by_degrees"),
)
MOST_BY_LAYER = 64  # regions at once that are also compared layer by layer: memory grows with their square


@dataclass(frozen=True)
class LayerOverlap:
    """Overlap of two regions in one numbered block, or in one kind of tensor outside the blocks.

    Attributes:
        k_a, k_b, intersection: entries.
        jaccard: |A and B| / |A or B|, 0 to 1.
        expected_by_tensor: expected by chance, given the counts in each tensor.
    """

    k_a: int
    k_b: int
    intersection: int
    jaccard: float
    expected_by_tensor: float


@dataclass(frozen=True)
class PairOverlap:
    """Overlap of two regions.

    Attributes:
        a, b: their labels.
        intersection: |A and B|.
        jaccard: |A and B| / |A or B|, 0 to 1.
        share_of_a, share_of_b: |A and B| / |A| and / |B|.
        expected: k1 k2 / N, by chance over all N parameters of the base; None where N is unknown.
        expected_by_tensor: expected by chance, given the counts in each tensor.
        z_by_tensor: (intersection - expected_by_tensor) / its standard deviation; None where that is 0.
        expected_by_column: expected by chance, given the counts in each column, an input dimension, of each tensor;
            None where both touch a matrix of which nothing tells the axis of its inputs.
        expected_by_degrees: the mean of samples that keep the counts of every row and column of each tensor; None where
            none were taken.
        low_by_degrees, high_by_degrees: between which 95 % of the samples lie.
        z_by_degrees: (intersection - expected_by_degrees) / the samples' standard deviation; None where that is 0.
        layers: layer -> the same within it, for layers that both touch; empty for more than `MOST_BY_LAYER` regions.
    """

    a: str
    b: str
    intersection: int
    jaccard: float
    share_of_a: float
    share_of_b: float
    expected: float | None
    expected_by_tensor: float
    z_by_tensor: float | None
    expected_by_column: float | None
    expected_by_degrees: float | None
    low_by_degrees: float | None
    high_by_degrees: float | None
    z_by_degrees: float | None
    layers: Mapping[str, LayerOverlap]


@dataclass(frozen=True)
class Overlap:
    """The overlap of several regions of one base.

    Attributes:
        names: their labels.
        k: their entries.
        n_parameters: of the base, None where unknown.
        pairs: every pair once, in order.
        threshold: Jaccard similarity from which two regions are linked.
        clusters: labels of the connected components.
        joins: the whole tree of single linkage.
        untold: matrices of which nothing tells the axis of their inputs, and two regions touch them.
    """

    names: tuple[str, ...]
    k: tuple[int, ...]
    n_parameters: int | None
    pairs: tuple[PairOverlap, ...]
    threshold: float
    clusters: tuple[tuple[str, ...], ...]
    joins: tuple[Join, ...]
    untold: tuple[str, ...] = ()

    def matrix(self, key: str = "jaccard") -> Matrix:
        """Return (m, m) of each pair's value under a key, such as "jaccard" or "intersection"; NaN on the diagonal."""
        m = len(self.names)
        result = np.full((m, m), np.nan)
        for (i, j), pair in zip(zip(*np.triu_indices(m, 1), strict=True), self.pairs, strict=True):
            result[i, j] = result[j, i] = getattr(pair, key)
        return result

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not known is null."""
        pairs = [to_plain(pair) | {key: getattr(pair, key) for key in MAY_BE_UNKNOWN} for pair in self.pairs]
        regions = [{"name": name, "k": k} for name, k in zip(self.names, self.k, strict=True)]
        plain: dict[str, Any] = {"regions": regions, "n_parameters": self.n_parameters, "pairs": pairs}
        return plain | {
            "threshold": self.threshold,
            "clusters": to_plain(self.clusters),
            "tree": to_plain(self.joins),
            "untold": list(self.untold),
        }


@checked
def measure_overlap(
    *regions: Patch | Mask | str | Path,
    threshold: float = THRESHOLD,
    labels: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    base: str | Path | None = None,
) -> Overlap:
    """Compare every pair of regions of one base; files are read row by row.

    Args:
        regions: patches or masks in memory, or paths of their files; two or more.
        threshold: Jaccard similarity, above 0 to 1, from which two regions are in one cluster.
        labels: their names; by default file or task names.
        samples: of the null that keeps the counts of rows and columns, 0 for none; where absent
            `graft.compose.degree_null.SAMPLES`, unless there are more than `MOST_BY_LAYER` regions or, in all of them,
            more than `graft.compose.degree_null.MOST_ENTRIES` entries.
        seed: of these samples.
        base: their base, by whose names they are compared, and whose modules tell which axis of a matrix is its input
            where its name does not, as in GPT-2.

    Raises:
        PatchMismatchError: regions of different bases, or not of this one; or, without it, that may call one tensor by
            two names.
        CheckpointError: the base cannot be found or read.
        PatchFormatError: a file that is no patch or mask.
        ConfigError: fewer than two regions, a threshold out of its range, or one sample.
    """
    if len(regions) < 2:
        raise ConfigError("an overlap needs two patches or more")
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold {threshold:g} is not above 0 and at most 1")
    if samples is not None and (samples < 0 or samples == 1):
        raise ConfigError(f"{samples} samples have no spread: take 0 for none, or two or more")
    sources = unify_names(open_sources(regions, labels, values=False), base)
    require_one_base(sources)
    n = max(source.provenance.base.n_parameters for source in sources) or None
    names = [source.label for source in sources]
    specs = join_specs(sources)
    axes = find_axes(specs, base)
    pairs = _count_pairs(sources, axes, n, samples, seed)
    untold = tuple(name for name in sorted({*specs} - {*axes}) if sum(name in own.specs for own in sources) > 1)
    m = len(sources)
    similarity = np.zeros((m, m))
    similarity[np.triu_indices(m, 1)] = [pair.jaccard for pair in pairs]
    joins = single_linkage(similarity + similarity.T)
    clusters = tuple(tuple(names[i] for i in group) for group in clusters_at(joins, threshold))
    return Overlap(tuple(names), tuple(source.k for source in sources), n, pairs, threshold, clusters, joins, untold)


@dataclass
class _Counts:
    """Sums over tensors for all pairs of m regions at once; each (m, m) but for k."""

    overlaps: Ints
    expected: Matrix
    variance: Matrix
    by_column: Matrix
    k: Ints  # (m,)

    @classmethod
    def zeros(cls, m: int) -> _Counts:
        """Return the sums over no tensor for m regions."""
        nothing = np.zeros((m, m))
        return cls(np.zeros((m, m), np.int64), nothing, nothing.copy(), nothing.copy(), np.zeros(m, np.int64))

    def add(self, k: Ints, overlaps: Ints, n: int) -> None:
        """Add one tensor of n weights, of which the regions hold k (m,) and share overlaps (m, m)."""
        # Of n = 10 weights a holds 2 and b holds 5: each of b's is among a's with chance 2 / 10, so that 1 is expected.
        # Each tensor has its own chance, so that regions in the same layers do not pass for regions that are alike.
        share = k / n
        self.k += k
        self.overlaps += overlaps
        self.expected += np.outer(k, share)
        # hypergeometric: k2 draws from n of which k1 count; its variance k2 (k1 / n) (1 - k1 / n) (n - k2) / (n - 1)
        self.variance += np.outer(k * (1 - share), share * (n - k)) / max(n - 1, 1)

    def jaccard(self, i: int, j: int) -> float:
        """Return what regions i and j share of all that either holds, 0 where neither holds anything."""
        union = int(self.k[i] + self.k[j] - self.overlaps[i, j])
        return int(self.overlaps[i, j]) / union if union else 0.0


@dataclass
class _Table:
    """Counts over all tensors, and within each layer."""

    m: int
    total: _Counts = field(init=False)
    null: DegreeNull = field(init=False)
    layers: dict[str, _Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = _Counts.zeros(self.m)
        self.null = DegreeNull(self.m)

    def add(self, name: str, k: Ints, overlaps: Ints, n: int) -> None:
        """Add one tensor to the totals and, where regions are few, to those of its layer."""
        self.total.add(k, overlaps, n)
        if self.m <= MOST_BY_LAYER:
            self.layers.setdefault(layer_of(name), _Counts.zeros(self.m)).add(k, overlaps, n)


def _count_pairs(
    sources: Sequence[Source], axes: Axes, n: int | None, samples: int | None, seed: int
) -> tuple[PairOverlap, ...]:
    table = _Table(len(sources))
    if samples is None:
        is_quick = len(sources) <= MOST_BY_LAYER and sum(source.k for source in sources) <= MOST_ENTRIES
        samples = SAMPLES if is_quick else 0
    for name in sorted({name for source in sources for name in source.specs}):
        owners = [i for i, source in enumerate(sources) if name in source.specs]
        spec, indices = sources[owners[0]].specs[name], [sources[i].read(name).indices for i in owners]
        join = join_indices(indices)
        # only regions that touch the tensor are joined; the others' rows and columns stay zero
        overlaps = np.zeros((len(sources), len(sources)), np.int64)
        overlaps[np.ix_(owners, owners)] = count_overlaps(join, len(owners))
        table.add(name, np.diag(overlaps).copy(), overlaps, spec.numel)
        matrices = view_matrices(name, spec.shape)
        table.total.by_column[np.ix_(owners, owners)] += expect_by_column(matrices, indices, axes.get(name))
        if samples and not has_inputs(name, spec.shape):
            table.null.add_vector(spec.numel, owners, indices)
        elif samples:
            table.null.add(matrices, owners, indices)
    labels = [source.label for source in sources]
    # counts are (m, m) whatever the masks' size, so that 1,000 regions take megabytes while files are read once
    rows, columns = np.triu_indices(len(sources), 1)
    drawn = table.null.sample(samples, seed=seed)
    return tuple(_describe_pair(table, labels, int(i), int(j), n, drawn) for i, j in zip(rows, columns, strict=True))


def _describe_pair(
    table: _Table, labels: Sequence[str], i: int, j: int, n: int | None, drawn: npt.NDArray[np.int64]
) -> PairOverlap:
    total = table.total
    overlaps, k_a, k_b = int(total.overlaps[i, j]), int(total.k[i]), int(total.k[j])
    expected, deviation = float(total.expected[i, j]), float(total.variance[i, j]) ** 0.5
    by_column = float(total.by_column[i, j])
    return PairOverlap(
        a=labels[i],
        b=labels[j],
        intersection=overlaps,
        jaccard=total.jaccard(i, j),
        share_of_a=overlaps / k_a if k_a else 0.0,
        share_of_b=overlaps / k_b if k_b else 0.0,
        expected=k_a * k_b / n if n else None,
        expected_by_tensor=expected,
        z_by_tensor=(overlaps - expected) / deviation if deviation else None,
        expected_by_column=None if math.isnan(by_column) else by_column,
        **_describe_samples(drawn[:, i, j], overlaps),
        layers={
            layer: _describe_layer(counts, i, j)
            for layer, counts in sorted(table.layers.items(), key=lambda item: natural_key(item[0]))
            if counts.k[i] and counts.k[j]
        },
    )


def _describe_samples(drawn: Ints, overlaps: int) -> dict[str, Any]:
    """Return the fields by degrees from a pair's (samples,) shared entries."""
    if not drawn.size:
        return dict.fromkeys(("expected_by_degrees", "low_by_degrees", "high_by_degrees", "z_by_degrees"))
    mean, spread = float(drawn.mean()), float(drawn.std(ddof=1))
    low, high = map(float, np.quantile(drawn, (0.025, 0.975)))
    z = (overlaps - mean) / spread if spread else None
    return {"expected_by_degrees": mean, "low_by_degrees": low, "high_by_degrees": high, "z_by_degrees": z}


def format_chance(expected: Mapping[str, float | None]) -> str:
    """Format what chance gives under each null, from the values of a pair's keys, for a person."""
    nulls = {"expected": "over all weights", "expected_by_tensor": "by tensor", "expected_by_column": "by column"}
    parts = [f"{_number(expected[key])} {null}" for key, null in nulls.items()]
    low, high = expected["low_by_degrees"], expected["high_by_degrees"]
    if low is not None and high is not None:
        mean = _number(expected["expected_by_degrees"])
        parts.append(f"{mean} [{_number(low)}, {_number(high)}] by row and column")
    return f"by chance {', '.join(parts)}"


def format_untold(untold: Sequence[str]) -> list[str]:
    """Return a line that says why chance by column is not known, or none where it is."""
    if not untold:
        return []
    more = f" and {len(untold) - 1:,} more" if len(untold) > 1 else ""
    return [f"by column: unknown where two touch {untold[0]!r}{more}: --base MODEL tells which axis its inputs number"]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _describe_layer(counts: _Counts, i: int, j: int) -> LayerOverlap:
    return LayerOverlap(
        k_a=int(counts.k[i]),
        k_b=int(counts.k[j]),
        intersection=int(counts.overlaps[i, j]),
        jaccard=counts.jaccard(i, j),
        expected_by_tensor=float(counts.expected[i, j]),
    )
