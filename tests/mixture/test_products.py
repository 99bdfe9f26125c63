"""Every way to a skill's share gives the same sums, whatever the entries; the cheapest is taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.mixture.flat_entries import FlatEntries
from graft.mixture.products import Addition, BlockProduct, Delta, EntryProduct, Products, choose_product
from graft.mixture.row_entries import PackedEntries, RowEntries

SHAPE = (6, 5)  # outputs, inputs


def delta_of(entries: set[tuple[int, int]], bias: set[int], seed: int = 0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.tensor([entry[i] for entry in sorted(entries)], dtype=torch.int64) for i in (0, 1))
    values, bias_values = torch.randn(len(entries), generator=generator), torch.randn(len(bias), generator=generator)
    return Delta(rows, columns, values, torch.tensor(sorted(bias), dtype=torch.int64), bias_values, SHAPE)


def dense(delta: Delta, inputs: torch.Tensor) -> torch.Tensor:
    """By the whole matrix, in fp64."""
    matrix, bias = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE[0], dtype=torch.float64)
    matrix[delta.rows, delta.columns] = delta.values.double()
    bias[delta.bias_rows] = delta.bias_values.double()
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
    entries = (delta.rows, delta.columns, delta.values)
    ways = [EntryProduct(*entries), choose_product(delta)]
    if delta.rows.numel():
        low = delta.rows < 3
        halves = [BlockProduct(*(part[side] for part in entries)) for side in (low, ~low) if side.any()]
        ways += [BlockProduct(*entries), Products(*halves)]
    for way in ways:
        output = base.clone()
        Addition(way.rows, delta.bias_rows, delta.bias_values).add(way.share(inputs), output)
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
        ways = [RowEntries([PackedEntries(delta) for delta in deltas])]
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
    assert isinstance(choose_product(delta_of({(0, 1), (3, 2)}, set())), EntryProduct)
    n = 512
    whole = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    bias = torch.empty(0, dtype=torch.int64), torch.empty(0)
    assert isinstance(choose_product(Delta(whole[0], whole[1], torch.ones(n * n), *bias, (n, n))), BlockProduct)
    line, zero = torch.arange(1, 4 * n), torch.zeros(4 * n - 1, dtype=torch.int64)
    cross = Delta(torch.cat([zero, line]), torch.cat([line, zero]), torch.ones(2 * len(line)), *bias, (4 * n, 4 * n))
    assert isinstance(choose_product(cross), Products)
