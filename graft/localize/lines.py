"""Whole lines on purpose: masks of whole columns (input dimensions) or rows (output dimensions) of matrices.

SGD gathers a skill in few input dimensions (outlier dimensions, arXiv 2310.17715), so that a mask of whole columns
costs little of it, and a file names each line once (`graft.patch.format.lines`). A line is worth the sum of its changed
entries' scores, to first order what all of it would do; the best are taken while they fit a budget of entries, of lines
or of bytes (of values and of lines' names, the header aside). One that does not fit is passed over for the next that
does, so that a budget is never exceeded, and what is left of it is less than any line that might still be had. Where an
allocation shares it out, what the groups leave of their shares goes to the best lines of all that fit.

Columns of two layers y = W x of shapes (2, 3) and (1, 2), stored (out, in), and a budget of 5 entries:

    (9 1 0)   sums 12 1 0     (4 4)   sums 4 4     column 0 of the first takes 2 entries, both of the second 1 each;
    (3 0 0)                                        1 is left, and column 1 of the first would take 2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from graft.errors import BudgetError, CheckpointError
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.localize.budget import allocate, resolve_budget
from graft.patch.format.coding import CONTINUE
from graft.patch.format.lines import expand_lines, measure_lines
from graft.patch.mask import Indices, Mask
from graft.scores.coordinates import Groups
from graft.scores.table import DenseScores
from graft.specs.localize import Allocation, LocalizeSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.transposed import find_input_axes

Unit = Literal["entries", "lines", "bytes"]
Totals = Mapping[str, Callable[[], torch.Tensor]]
NAME_BYTES = 2  # of a line in a file, and of each 65,535 lines that it lies after the one before


class SizeOfLines(Protocol):
    """Settings that say how many lines to take."""

    @property
    def density(self) -> float: ...  # noqa: D102
    @property
    def budget(self) -> int | None: ...  # noqa: D102
    @property
    def lines(self) -> int | None: ...  # noqa: D102
    @property
    def bytes(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class LineBudget:
    """How much whole lines may take: so many of a unit, shared out by an allocation.

    Attributes:
        unit: what is counted.
        size: how many.
        allocation: how they are shared out.
        copies: values that a file holds of each entry.
    """

    unit: Unit
    size: int
    allocation: Allocation = "global"
    copies: int = 1

    def cost(self, spec: TensorSpec, code: str) -> int:
        """Return what a line of a matrix takes of the budget."""
        length = measure_lines(code, spec.shape)[1]
        n_bytes = length * ITEM_SIZES[spec.dtype] * self.copies + NAME_BYTES
        return {"entries": length, "lines": 1, "bytes": n_bytes}[self.unit]

    def start_cost(self, spec: TensorSpec, code: str) -> int:
        """Return what the first line of a matrix may take beside: its file tells far lines by steps to them."""
        n_lines = measure_lines(code, spec.shape)[0]
        return (n_lines - 1) // CONTINUE * NAME_BYTES if self.unit == "bytes" else 0

    def share(self, specs: Mapping[str, TensorSpec]) -> Groups:
        """Return the shares of groups of matrices.

        Raises:
            BudgetError: a budget of more entries than the matrices have.
        """
        if self.unit == "entries":
            return allocate(self.size, {name: spec.numel for name, spec in specs.items()}, self.allocation)
        return [(tuple(specs), self.size)]


def find_budget(n_parameters: int, config: SizeOfLines, *, with_base_values: bool = False) -> LineBudget:
    """Return the budget of the settings of a patch or of a refit: of lines or bytes where they say so, else of entries.

    `with_base_values` says that the file holds the base's values too.

    Raises:
        BudgetError: a budget of no entry.
    """
    allocation: Allocation = getattr(config, "allocation", "global")
    if config.lines is not None:
        return LineBudget("lines", config.lines)
    if config.bytes is not None:
        return LineBudget("bytes", config.bytes, copies=1 + with_base_values)
    return LineBudget("entries", resolve_budget(n_parameters, config.density, config.budget), allocation)


def count_on_path(budget: LineBudget, specs: Mapping[str, TensorSpec], most: int) -> int:
    """Return about how many entries a budget keeps, `most` at most: as many the graft of a score's path has."""
    n_lines = sum(min(spec.shape) for spec in specs.values())
    n_entries = sum(spec.numel for spec in specs.values())
    per_unit = {
        "entries": 1.0,
        "lines": n_entries / n_lines,
        "bytes": n_entries / sum(x.n_bytes for x in specs.values()),
    }
    return max(1, min(most, int(budget.size * per_unit[budget.unit])))


def count_at_most(budget: LineBudget, specs: Mapping[str, TensorSpec], codes: Mapping[str, str]) -> int:
    """Return the most entries that lines within a budget can have: the longest lines, or those that name most."""
    lines = sorted((measure_lines(codes[name], spec.shape)[::-1] for name, spec in specs.items()), reverse=True)
    total, left, most = sum(length * n for length, n in lines), budget.size, 0
    if budget.unit != "lines":
        costs = {name: budget.cost(spec, codes[name]) for name, spec in specs.items()}
        return min(total, max(left * measure_lines(codes[name], specs[name].shape)[1] // costs[name] for name in specs))
    for length, n in lines:
        most, left = most + length * min(n, left), max(0, left - n)
    return most


def find_codes(base: Checkpoint, names: Sequence[str], structure: str) -> dict[str, str]:
    """Return the code of a structure's lines in each matrix as it is stored: name -> "rows" or "columns".

    Raises:
        CheckpointError: nothing tells which axis of a matrix is its input.
    """
    inputs = find_input_axes(base, names)
    return {name: "columns" if (axis == 1) == (structure == "columns") else "rows" for name, axis in inputs.items()}


def total_lines(scores: torch.Tensor, may_take: torch.Tensor, shape: tuple[int, ...], code: str) -> torch.Tensor:
    """Return (lines,) fp64 sums of (n,) scores over what may be taken, -inf for a line of which nothing may.

    What scores -inf may not be taken for its own sake, and adds nothing.
    """
    axis, may_take = 0 if code == "columns" else 1, may_take & (scores != -torch.inf)
    sums = scores.masked_fill(~may_take, 0).view(shape).sum(axis, dtype=torch.float64)
    return sums.masked_fill(~may_take.view(shape).any(axis), -torch.inf)


def total_draws(scores: torch.Tensor, may_take: torch.Tensor, shape: tuple[int, ...], code: str) -> torch.Tensor:
    """Return one draw a line in place of a sum, which would favor the longest lines, so that all are as likely."""
    axis = 0 if code == "columns" else 1
    return scores.view(shape).select(axis, 0).double().masked_fill(~may_take.view(shape).any(axis), -torch.inf)


def choose_lines(
    scores: DenseScores,
    matrices: Sequence[str],
    config: LocalizeSpec,
    *,
    draws: bool = False,
    with_base_values: bool = False,
) -> Mask:
    """Choose the lines of matrices with the best totals over the entries that tuning changed.

    Args:
        scores: of every weight.
        matrices: to choose from.
        config: the structure and its budget.
        draws: the scores are random draws, of which one a line counts.
        with_base_values: the file will hold the base's values too.

    Raises:
        BudgetError, CheckpointError: as `find_codes` and `select_lines`.
    """
    base = scores.pair.base
    specs = {name: base.spec(name) for name in matrices}
    codes = find_codes(base, matrices, str(config.structure))

    def total(name: str) -> torch.Tensor:
        changed = scores.pair.read_delta(name)[1]
        add_up = total_draws if draws else total_lines
        return add_up(scores.table[name](), changed, specs[name].shape, codes[name])

    totals = {name: partial(total, name) for name in matrices}
    budget = find_budget(base.n_parameters, config, with_base_values=with_base_values)
    return select_lines(totals, specs, codes, budget)


def select_lines(totals: Totals, specs: Mapping[str, TensorSpec], codes: Mapping[str, str], budget: LineBudget) -> Mask:
    """Select the lines with the largest totals that fit a budget; ties go by tensor name, then line.

    Args:
        totals: matrix -> function that gives its (lines,) fp64 totals; -inf marks what may not be taken.
        specs: of the matrices.
        codes: matrix -> "rows" or "columns", as it is stored.
        budget: what the lines may take.

    Raises:
        BudgetError: no line fits, or there are fewer than a budget of lines asks for.
        CheckpointError: a total is NaN.
    """
    costs = {name: budget.cost(spec, codes[name]) for name, spec in specs.items()}
    starts = {name: budget.start_cost(spec, codes[name]) for name, spec in specs.items()}
    lines = _Lines({name: total().numpy() for name, total in totals.items()}, costs, starts)
    left = sum(lines.take(names, share) for names, share in budget.share(specs))
    lines.take(tuple(specs), left)
    indices = {name: expand_lines(codes[name], taken, specs[name].shape) for name, taken in lines.taken().items()}
    if not indices:
        raise BudgetError(
            f"no line of a matrix fits a budget of {budget.size:,} {budget.unit}: the shortest in scope takes "
            f"{min(costs[name] + starts[name] for name in costs):,}; raise it"
        )
    mask = Mask.of(specs, indices)
    n_lines = count_lines(mask, codes)
    if budget.unit == "lines" and n_lines < budget.size:
        raise BudgetError(
            f"a budget of {budget.size:,} lines, but only {n_lines:,} in scope changed and have a score: lower it"
        )
    return mask


def count_lines(mask: Mask, codes: Mapping[str, str]) -> int:
    """Return the number of lines of a mask that holds whole ones alone."""
    return sum(len(mask[name]) // measure_lines(codes[name], mask.specs[name].shape)[1] for name in mask)


class _Lines:
    """The lines of matrices that are taken so far.

    Args:
        totals: matrix -> (lines,) fp64; -inf marks what may not be taken.
        costs: matrix -> what each of its lines takes.
        starts: matrix -> what the first of them takes beside.

    Raises:
        CheckpointError: a total is NaN.
    """

    def __init__(
        self, totals: Mapping[str, npt.NDArray[np.float64]], costs: Mapping[str, int], starts: Mapping[str, int]
    ) -> None:
        if any(np.isnan(part).any() for part in totals.values()):
            raise CheckpointError("a score is NaN: the model's loss or weights are not finite")
        self._totals, self._costs, self._starts = totals, costs, starts
        self._taken = {name: np.zeros(len(part), np.bool_) for name, part in totals.items()}

    def take(self, names: Sequence[str], share: int) -> int:
        """Take the lines of some matrices that are left, the best first, while they fit; return what is left over."""
        names = sorted(names)
        flat = np.concatenate([np.where(self._taken[name], -np.inf, self._totals[name]) for name in names])
        sizes = [len(self._totals[name]) for name in names]
        owner, taken = np.repeat(np.arange(len(names)), sizes), np.zeros(len(flat), np.bool_)
        costs = [self._costs[name] for name in names]
        starts = [0 if self._taken[name].any() else self._starts[name] for name in names]
        for position in np.argsort(-flat, kind="stable"):
            if share < min(costs) or flat[position] == -np.inf:
                break
            cost = costs[owner[position]] + starts[owner[position]]
            if cost <= share:
                taken[position], share, starts[owner[position]] = True, share - cost, 0
        for name, part in zip(names, np.split(taken, np.cumsum(sizes)[:-1]), strict=True):
            self._taken[name] |= part
        return share

    def taken(self) -> dict[str, Indices]:
        """Return the ascending numbers of the lines that are taken, of each matrix with any."""
        return {name: np.flatnonzero(part) for name, part in sorted(self._taken.items()) if part.any()}
