"""Masks that fit a rank: exact budgets inside few lines, and lines worth their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import BudgetError, ConfigError
from graft.files.tensor_spec import TensorSpec
from graft.localize.localization import localize_skill
from graft.localize.rank_limit import select_within_rank
from graft.patch.mask import Mask
from graft.patch.vertex_cover import cover_entries, largest_rank, rank_of
from graft.scores.coordinates import Coordinates, Groups
from graft.scores.table import CandidateScores, Scores
from graft.specs.localize import LearnSpec, LocalizeSpec
from graft.tasks.task import Task


class Table(Scores):
    """Scores of every entry of some matrices."""

    def __init__(self, matrices: dict[str, torch.Tensor]) -> None:
        specs = {name: TensorSpec("F32", tuple(matrix.shape)) for name, matrix in matrices.items()}
        self.coordinates = Coordinates(Mask.full(specs))
        self.values = torch.cat([matrices[name].flatten() for name in self.coordinates.mask])
        self.sizes = {name: spec.numel for name, spec in specs.items()}

    def select(self, groups: Groups, *, at_most: bool = True) -> Mask:
        return self.coordinates.mask_of(self.coordinates.keep_top(self.values, groups))

    def at(self, mask: Mask) -> torch.Tensor:
        return self.values[self.coordinates.positions_of(mask)]

    def magnitudes(self) -> Any:
        raise NotImplementedError

    def plus(self, other: Any, weight: float, factor: float) -> Any:
        raise NotImplementedError


def choose(matrices: dict[str, torch.Tensor], k: int, max_rank: int) -> tuple[Mask, Table]:
    table = Table(matrices)
    return select_within_rank(table, [(tuple(matrices), k)], max_rank, table.sizes), table


def admit_in_order(table: Table, k: int, max_rank: int) -> float:
    """Total score of the other plain way: the best first, each admitted where the matrix keeps its rank."""
    mask, total = table.coordinates.mask, 0.0
    specs, kept = mask.specs, {name: [] for name in mask}  # type: dict[str, Any], dict[str, list[int]]
    owners = [(name, int(index)) for name in mask for index in mask[name]]
    for position in table.values.argsort(descending=True, stable=True).tolist():
        name, index = owners[position]
        if rank_of(np.array(sorted([*kept[name], index])), specs[name].shape) <= max_rank:
            kept[name].append(index)
            total += float(table.values[position])
        if sum(map(len, kept.values())) == k:
            break
    return total


def test_the_example_of_the_docstring() -> None:
    mask, _ = choose({"w": torch.tensor([[9.0, 6, 5], [7, 0, 0], [1, 0, 0]])}, 3, 1)
    assert mask["w"].tolist() == [0, 1, 2]


def test_without_a_need_for_it_the_limit_changes_nothing() -> None:
    matrices = {"a": torch.zeros(6, 7), "b": torch.zeros(5, 4)}
    matrices["a"][2] = torch.arange(7.0) + 1
    matrices["b"][:, 1] = torch.arange(5.0) + 1.5
    mask, table = choose(matrices, 9, 1)
    assert mask == table.select([(("a", "b"), 9)])
    assert largest_rank(mask) == 1


def test_lines_are_worth_more_than_entries_admitted_in_order() -> None:
    shares = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)

        def heavy(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(shape, generator=generator).abs() ** 3

        matrices = {name: heavy(24, 20) * heavy(24, 1) * heavy(1, 20) for name in "abc"}
        mask, table = choose(matrices, 90, 3)
        free = float(table.at(table.select([(tuple("abc"), 90)])).sum())
        shares.append((float(table.at(mask).sum()) / free, admit_in_order(table, 90, 3) / free))
    ours, theirs = np.array(shares).mean(0)
    assert 0.8 < theirs < ours <= 1


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_exact_budgets_and_ranks_whatever_the_scores(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
    seed, max_rank = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(seed)
    levels = data.draw(st.sampled_from([1, 2, 1000]))  # with ties, and without
    matrices = {str(i): torch.randint(levels, shape, generator=generator).float() for i, shape in enumerate(shapes)}
    most = sum(max(m, n) * min(max_rank, m, n) for m, n in shapes)
    k = data.draw(st.integers(1, most + 3))
    try:
        mask = choose(matrices, k, max_rank)[0]
    except BudgetError as error:
        assert k > sum(max(m, n) for m, n in shapes)  # one line of each would have been enough
        assert "raise max_rank" in str(error)  # noqa: PT017 - a budget that fits must not be refused
        return
    assert len(mask) == k
    assert all(cover_entries(mask[name], spec.shape).rank <= max_rank for name, spec in mask.specs.items())
    assert mask == choose(matrices, k, max_rank)[0]


@pytest.mark.parametrize("allocation", ["global", "per-tensor", "per-layer"])
@pytest.mark.parametrize("method", ["attribution", "taylor", "magnitude", "random", "learned"])
def test_every_method_keeps_to_the_rank(method: str, allocation: Any, base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec(method, budget=300, points=2, allocation=allocation, learn=LearnSpec(epochs=1))
    free = localize_skill(base, tuned, task, config)
    assert largest_rank(free.mask) > 4
    fitting = localize_skill(base, tuned, task, LocalizeSpec(**{**vars(config), "max_rank": 4}))
    assert len(fitting) == 300
    assert 1 <= largest_rank(fitting.mask) <= 4
    assert all(len(spec.shape) == 2 for spec in fitting.mask.specs.values())
    assert fitting.provenance.method["max_rank"] == 4


def test_what_cannot_keep_to_a_rank_is_refused(base: Path, tuned: Path, task: Task) -> None:
    with pytest.raises(ConfigError, match="'paper' cannot keep to a rank"):
        localize_skill(base, tuned, task, LocalizeSpec("paper", max_rank=4))
    with pytest.raises(ConfigError, match="holds no matrix"):
        localize_skill(base, tuned, task, LocalizeSpec("magnitude", max_rank=4, scope="bias$"))
    with pytest.raises(BudgetError, match=r"1 rows and columns of each matrix are [\d,]+: raise max_rank"):
        localize_skill(base, tuned, task, LocalizeSpec("magnitude", max_rank=1, budget=5000))


class Few(Table):
    """The same where the best few entries alone have a score."""

    advice = CandidateScores.advice

    def __init__(self, matrices: dict[str, torch.Tensor], n: int) -> None:
        super().__init__(matrices)
        best = self.values.sort(descending=True, stable=True).indices[:n].sort().values
        self.coordinates = Coordinates(
            self.coordinates.mask_of(torch.zeros(len(self.values)).index_fill(0, best, 1) > 0)
        )
        self.values = self.values[best]


def test_a_refusal_says_whether_other_entries_could_fill_the_lines() -> None:
    matrices = {"w": torch.eye(4) + torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) / 2}
    scored = r"of the 5 that have a score those in 1 .* are \d: score every weight \(--exact-scores\), raise"
    few = Few(matrices, 5)
    with pytest.raises(BudgetError, match=scored):
        select_within_rank(few, [(("w",), 4)], 1, few.sizes)
    assert len(choose(matrices, 4, 1)[0]) == 4
    with pytest.raises(BudgetError, match=r"5 entries, but those in 1 rows and columns of each matrix are 4: raise"):
        choose(matrices, 5, 1)
    small = {"v": torch.rand(4, 4), "w": torch.rand(4, 4) + 2}
    with pytest.raises(BudgetError, match=r"9 entries, but those in 1 rows and columns of each matrix are 8: raise"):
        choose(small, 9, 1)
