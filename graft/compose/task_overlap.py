"""Overlap of the regions of several tasks over several seeds, beside that of one task over two seeds.

The latter is the ceiling: no two tasks can be expected to share more than a task shares with itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.compose.clusters import Matrix
from graft.compose.region_overlap import PairOverlap, format_chance, format_untold, measure_overlap
from graft.compose.sources import Region

KEYS = (
    *("jaccard", "share_of_b", "intersection", "expected", "expected_by_tensor", "z_by_tensor", "expected_by_column"),
    *("expected_by_degrees", "low_by_degrees", "high_by_degrees", "z_by_degrees"),
)

_MIRRORED = {"share_of_b": "share_of_a"}  # key -> what it is of the pair the other way about


@dataclass(frozen=True)
class TaskOverlap:
    """Overlap of tasks: means over all pairs of seeds.

    Attributes:
        names: of the tasks.
        means: `KEYS`, as in `PairOverlap` of a row's task with a column's -> (m, m), symmetric but for `share_of_b`,
            which is that of the column's region; on the diagonal the ceiling, one task over two seeds, NaN for one
            seed; results of before have no key by column or by degrees, and the later task's `share_of_b` in both
            cells. The interval by degrees is the mean of those of single pairs of seeds.
        untold: as in `Overlap`.
    """

    names: tuple[str, ...]
    means: Mapping[str, Matrix]
    untold: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Format every pair of tasks, most alike first, then every task's ceiling, as lines for a person."""
        jaccard, m = self.means["jaccard"], len(self.names)
        pairs = sorted(itertools.combinations(range(m), 2), key=lambda pair: -jaccard[pair])
        pairs += [(i, i) for i in range(m) if not np.isnan(jaccard[i, i])]
        return [*(self._line(i, j) for i, j in pairs), *format_untold(self.untold)]

    def _line(self, i: int, j: int) -> str:
        names = f"{self.names[i]}  {self.names[j]}" if i != j else f"{self.names[i]}, two seeds"
        mean = {key: matrix[i, j] for key, matrix in self.means.items()}
        known = {key: None if np.isnan(value) else float(value) for key, value in mean.items()}
        return f"{names}: jaccard {mean['jaccard']:.4f}, shared {mean['intersection']:,.1f}; {format_chance(known)}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, null where there is none."""
        plain = {key: [[None if np.isnan(x) else x for x in row] for row in self.means[key].tolist()] for key in KEYS}
        return {"names": list(self.names), **plain}


def measure_task_overlap(
    regions: Mapping[str, Sequence[Region]],
    *,
    samples: int | None = None,
    seed: int = 0,
    base: str | Path | None = None,
) -> TaskOverlap:
    """Compare the regions of tasks, each given for one or more seeds.

    Args:
        regions: task -> its patches or masks.
        samples, seed, base: as in `measure_overlap`.

    Raises:
        PatchMismatchError, CheckpointError: as in `measure_overlap`.
        ConfigError: fewer than two regions.
    """
    owners = [i for i, members in enumerate(regions.values()) for _ in members]
    labels = [f"{name}/{j}" for name, members in regions.items() for j in range(len(members))]
    members = [item for of_task in regions.values() for item in of_task]
    overlap = measure_overlap(*members, labels=labels, samples=samples, seed=seed, base=base)
    rows, columns = np.triu_indices(len(owners), 1)
    by_tasks: dict[tuple[int, int], list[PairOverlap]] = {}
    for i, j, pair in zip(rows, columns, overlap.pairs, strict=True):
        by_tasks.setdefault((owners[i], owners[j]), []).append(pair)
    return TaskOverlap(tuple(regions), {key: _means(by_tasks, key, len(regions)) for key in KEYS}, overlap.untold)


def _means(by_tasks: Mapping[tuple[int, int], Sequence[PairOverlap]], key: str, m: int) -> Matrix:
    result = np.full((m, m), np.nan)
    for (i, j), pairs in by_tasks.items():
        for row, column, of_pair in ((j, i, _MIRRORED.get(key, key)), (i, j, key)):
            values = [value for pair in pairs if (value := getattr(pair, of_pair)) is not None]
            # a z has no value where nothing can vary; of what chance gives, a mean over fewer pairs is of other pairs
            is_whole = len(values) == len(pairs) or (values and key.startswith("z_"))
            result[row, column] = np.mean(values) if is_whole else np.nan
    return result
