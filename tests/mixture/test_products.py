"""Every way to a skill's share gives the same sums, whatever the entries; the cheapest is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.mixture.delta import Delta, Moved
from graft.mixture.flat_entries import FlatEntries
from graft.mixture.products import CALL, ENTRY, Addition, BlockProduct, Products, choose_product
from graft.mixture.row_entries import RowEntries
from graft.patch.vertex_cover import Cover, cover_entries

SHAPE = (6, 5)  # outputs, inputs


def delta_of(entries: set[tuple[int, int]], bias: set[int], seed: int = 0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.tensor([entry[i] for entry in sorted(entries)], dtype=torch.int64) for i in (0, 1))
    values, bias_values = torch.randn(len(entries), generator=generator), torch.randn(len(bias), generator=generator)
    bias_rows = torch.tensor(sorted(bias), dtype=torch.int64)
    return Delta(Moved(rows, columns, values, values), Moved(bias_rows, bias_rows, bias_values, bias_values), SHAPE)


def dense(delta: Delta, inputs: torch.Tensor) -> torch.Tensor:
    """By the whole matrix, in fp64."""
    matrix, bias = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE[0], dtype=torch.float64)
    matrix[delta.matrix.rows, delta.matrix.columns] = delta.matrix.values.double()
    bias[delta.bias.rows] = delta.bias.values.double()
    return inputs.double() @ matrix.T + bias


DELTAS = st.builds(
    delta_of,
    st.sets(st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))),
    st.sets(st.integers(0, SHAPE[0] - 1)),
    st.integers(0, 5),
)


@settings(derandomize=True, deadline=None)
@given(delta=DELTAS)
def test_one_skill(delta: Delta) -> None:
    inputs, base = torch.randn(3, 2, SHAPE[1]), torch.randn(3, 2, SHAPE[0])
    entries = (delta.matrix.rows, delta.matrix.columns, delta.matrix.values)
    low = entries[0] < 3
    halves = [BlockProduct(*(part[side] for part in entries)) for side in (low, ~low) if side.any()]
    for way in [BlockProduct(*entries), Products(*halves)] if halves else []:
        output = base.clone()
        Addition(way.rows, delta.bias.rows, delta.bias.values).add(way.share(inputs), output)
        torch.testing.assert_close(output, (base.double() + dense(delta, inputs)).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(derandomize=True, deadline=None)
@given(deltas=st.lists(DELTAS, min_size=1, max_size=4))
def test_rows_of_several_skills(dtype: torch.dtype, deltas: list[Delta]) -> None:
    for n_tokens in (1, 3):
        inputs = torch.randn(len(deltas), n_tokens, SHAPE[1]).to(dtype)
        base = torch.randn(len(deltas), n_tokens, SHAPE[0]).to(dtype)
        shares = torch.stack([dense(delta, row) for delta, row in zip(deltas, inputs, strict=True)])
        wanted = (base.double() + shares).float().to(dtype)  # rounded once
        ways = [RowEntries(deltas)]
        for way in ways if n_tokens > 1 else [*ways, FlatEntries(deltas)]:
            output = base.clone()
            way.add(inputs, output)
            near = (output.float() - wanted.float()).abs() <= torch.finfo(dtype).eps * wanted.float().abs() + 1e-5
            assert near.all()
            untouched = torch.ones(len(deltas), SHAPE[0], dtype=torch.bool)
            for row, delta in enumerate(deltas):
                untouched[row, delta.touched] = False
            assert torch.equal(output.mT[untouched], base.mT[untouched])


def test_the_cheapest_way() -> None:
    """Few entries go one by one, a dense head as one matrix, a cross of a row and a column by its cover."""
    assert choose_product(delta_of({(0, 1), (3, 2)}, set())) is None
    n = 512
    spread = torch.randperm(n * n, generator=torch.Generator().manual_seed(0))[:300]
    assert choose_product(square(spread // n, spread % n, n)) is None
    whole = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    assert isinstance(choose_product(square(whole[0], whole[1], n)), BlockProduct)
    line, zero = torch.arange(1, 4 * n), torch.zeros(4 * n - 1, dtype=torch.int64)
    cross = square(torch.cat([zero, line]), torch.cat([line, zero]), 4 * n)
    assert isinstance(choose_product(cross), Products)


def test_no_cover_is_looked_for_where_none_could_be_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is most of what a skill costs when it is added."""
    seen: list[int] = []

    def cover(flat: np.ndarray, shape: tuple[int, int]) -> Cover:
        seen.append(len(flat))
        return cover_entries(flat, shape)

    monkeypatch.setattr("graft.mixture.products.cover_entries", cover)
    for n in (most := int(CALL / ENTRY), most + 1):
        line = torch.arange(n)
        assert choose_product(square(line, line, n)) is None
    assert seen == [most + 1]


def square(rows: torch.Tensor, columns: torch.Tensor, n: int) -> Delta:
    """Entries of 1 in an n x n matrix without a bias."""
    return Delta(Moved(rows, columns, torch.ones(len(rows)), rows.float()), Moved.none(torch.ones(1)), (n, n))
