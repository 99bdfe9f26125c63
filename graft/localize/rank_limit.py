"""Masks that fit a LoRA of rank R by construction: in each matrix all entries lie in at most R rows and columns.

Most of the best-scored entries share few lines anyway (random ones aside); which R lines to allow a matrix is a problem
of coverage, for which greedy choice is the usual answer. With the threshold t at the k-th best score, a line is worth
the sum of s - t over its entries above t that no chosen line holds yet, and the best line is taken until a matrix has
R. The mask is then the exact top k inside the lines. Its own threshold is lower, since some of the best are left out,
so the lines are chosen again by it; of `ROUNDS` rounds the one with the largest total score is kept.

R = 1, k = 3, one matrix:

    (9 6 5)     t is 6, and row 0 and column 0 are worth 3 + 0 and 3 + 1: column 0, which holds 9, 7 and 1. By its
    (7 0 0)     third best, t = 1, row 0 is worth 8 + 5 + 4 and column 0 worth 8 + 6 + 0: row 0, with 9, 6 and 5.
    (1 0 0)

Entries outside matrices have no lines, and take no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from graft.errors import BudgetError
from graft.patch.mask import Mask
from graft.scores.coordinates import Coordinates, Groups

ROUNDS = 4
POOL = 10  # entries looked at for each of the budget, the best-scored first; more where their lines hold too few
_GROWTH = 8

Bools = npt.NDArray[np.bool_]


class Ranked(Protocol):
    """Scores of weights, those of `graft.scores.table` among them."""

    @property
    def advice(self) -> str:
        """How more entries get a score, where they can."""

    def select(self, groups: Groups, *, at_most: bool = False) -> Mask:
        """Return the best-scored entries, as many of each group of tensors as its share says, or as have a score."""

    def at(self, mask: Mask) -> torch.Tensor:
        """Return (k,) scores at a mask, by tensor name, then index."""


def select_within_rank(scores: Ranked, groups: Groups, max_rank: int, sizes: Mapping[str, int]) -> Mask:
    """Return the best-scored entries that lie in R lines of each matrix, exactly each group's share.

    Args:
        scores: of the weights.
        groups: how the budget is shared out; matrices alone.
        max_rank: R.
        sizes: tensor name -> number of weights that may be chosen.

    Raises:
        BudgetError: the lines hold fewer entries.
    """
    pool = find_within_rank(scores, groups, max_rank, sizes, POOL)
    return _keep_top(pool, scores.at(pool), groups)


def find_within_rank(scores: Ranked, groups: Groups, max_rank: int, sizes: Mapping[str, int], multiple: int) -> Mask:
    """Return the `multiple` x k best-scored entries less those outside R lines of each matrix; at least k are left.

    Raises:
        BudgetError: the lines hold fewer than k, of the entries that have a score.
    """
    k, before = sum(share for _, share in groups), 0
    while True:
        wider = [(names, min(multiple * share, sum(sizes[name] for name in names))) for names, share in groups]
        pool = scores.select(wider, at_most=True)
        within = _within_lines(pool, scores.at(pool), groups, max_rank)
        if len(_keep_top(within, scores.at(within), groups)) == k:
            return within
        if len(pool) == before:
            there = f"those in {max_rank} rows and columns of each matrix are {len(within):,}"
            advice = "raise max_rank or lower the budget"
            if len(pool) < sum(n for _, n in wider):  # no more have a score, and the others could fill these lines
                there = f"of the {len(pool):,} that have a score {there}"
                advice = ", ".join(filter(None, (scores.advice, advice)))
            raise BudgetError(f"a budget of {k:,} entries, but {there}: {advice}")
        before, multiple = len(pool), multiple * _GROWTH


def _keep_top(pool: Mask, scores: torch.Tensor, groups: Groups) -> Mask:
    coordinates = Coordinates(pool)
    return coordinates.mask_of(coordinates.keep_top(scores, groups))


def _within_lines(pool: Mask, scores: torch.Tensor, groups: Groups, max_rank: int) -> Mask:
    """Return the pool's entries in the chosen lines, which are chosen for each group apart."""
    coordinates, values = Coordinates(pool), scores.double().numpy()
    kept = np.zeros(len(pool), np.bool_)
    for names, share in groups:
        parts = {name: coordinates.slices[name] for name in sorted(names) if name in coordinates.slices}
        if parts:
            positions = np.concatenate([np.arange(part.start, part.stop) for part in parts.values()])
            kept[positions] = _choose_lines(pool, {name: values[part] for name, part in parts.items()}, share, max_rank)
    return coordinates.mask_of(torch.from_numpy(kept))


def _choose_lines(pool: Mask, scores: Mapping[str, npt.NDArray[np.float64]], k: int, max_rank: int) -> Bools:
    """Return which entries of some matrices, one after another, lie in the best lines."""
    flat = np.concatenate(list(scores.values()))
    threshold, best, highest = _kth_largest(flat, k), np.zeros(len(flat), np.bool_), (False, -np.inf)
    for _ in range(ROUNDS):
        within = np.concatenate(
            [_cover_greedily(pool, name, values - threshold, max_rank) for name, values in scores.items()]
        )
        n = int(within.sum())
        top = np.partition(flat[within], n - k)[n - k :] if n >= k else flat[within]
        # too few is worse than any total; among those the most
        total = (True, float(top.sum())) if n >= k else (False, float(n))
        if total > highest:
            best, highest = within, total
        lower = _kth_largest(flat[within], k) if n >= k else -np.inf
        if lower >= threshold:
            break
        threshold = max(lower, float(flat.min()) - 1)
    return best


def _kth_largest(values: npt.NDArray[np.float64], k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) > k else float(values.min())


def _cover_greedily(pool: Mask, name: str, worth: npt.NDArray[np.float64], max_rank: int) -> Bools:
    """Return which of a matrix's entries lie in the lines that greedy choice takes by what they add."""
    (n_rows, n_columns), lines = pool.specs[name].shape, np.divmod(pool[name], pool.specs[name].shape[1])
    rows, columns = lines[0], lines[1] + n_rows  # one numbering of lines: rows, then columns
    left, within = np.maximum(worth, 0), np.zeros(len(worth), np.bool_)
    gains = np.bincount(rows, left, n_rows + n_columns) + np.bincount(columns, left, n_rows + n_columns)
    for _ in range(max_rank):
        line = int(gains.argmax())
        if gains[line] <= 0:
            break
        held = np.flatnonzero((rows == line) | (columns == line))
        np.subtract.at(gains, rows[held], left[held])
        np.subtract.at(gains, columns[held], left[held])
        gains[line], left[held], within[held] = 0, 0, True
    return within
