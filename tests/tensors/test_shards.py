from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.tensors.dtypes import assign, take
from graft.tensors.shards import Shard, is_distributed, local_of, shard_of

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Draw a shape, and its cuts: (dimension, number of parts) for each axis of a mesh."""
    shape = draw(shapes)
    axis = st.tuples(st.integers(0, len(shape) - 1), st.integers(1, 9))
    return shape, draw(st.lists(axis, max_size=2))


def shards_of(shape: tuple[int, ...], cuts: list[tuple[int, int]]) -> list[Shard]:
    """Return every process's shard."""
    ranks = itertools.product(*(range(number) for _, number in cuts))
    return [Shard.of_splits(shape, [(*cut, part) for cut, part in zip(cuts, rank, strict=True)]) for rank in ranks]


def whole_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


@given(layouts())
def test_the_shards_are_those_of_chunk_and_cover_the_tensor_once(
    layout: tuple[tuple[int, ...], list[tuple[int, int]]],
) -> None:
    shape, cuts = layout
    shards = shards_of(shape, cuts)
    elements = [shard.cut(whole_of(shape)).flatten() for shard in shards]
    assert [shard.numel for shard in shards] == [len(some) for some in elements]
    assert torch.equal(torch.cat(elements).sort().values, whole_of(shape).flatten())
    if len(cuts) == 1:
        (dimension, number), n = cuts[0], len(whole_of(shape).chunk(cuts[0][1], cuts[0][0]))
        for shard, chunk in zip(shards[:n], whole_of(shape).chunk(number, dimension), strict=True):
            assert torch.equal(shard.cut(whole_of(shape)), chunk)
        assert all(shard.numel == 0 for shard in shards[n:])  # chunk leaves empty parts out


@given(layouts(), st.data())
def test_indices_of_the_whole_are_found_in_the_shard_that_holds_them(
    layout: tuple[tuple[int, ...], list[tuple[int, int]]], data: st.DataObject
) -> None:
    shape, cuts = layout
    tensor = whole_of(shape)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, tensor.numel() - 1), max_size=12)), dtype=torch.int64)
    all_positions = []
    for shard in shards_of(shape, cuts):
        positions, local = shard.locate(indices)
        assert torch.equal(shard.cut(tensor).flatten()[local], indices[positions])  # element i of the whole is i
        assert torch.equal(shard.globalize(local), indices[positions])
        assert torch.equal(positions, positions.sort().values)
        all_positions.append(positions)
    assert torch.equal(torch.cat(all_positions).sort().values, torch.arange(len(indices)))


@given(layouts())
def test_a_shard_knows_the_index_of_each_of_its_elements(
    layout: tuple[tuple[int, ...], list[tuple[int, int]]],
) -> None:
    shape, cuts = layout
    for shard in shards_of(shape, cuts):
        assert torch.equal(shard.globalize(torch.arange(shard.numel)), shard.cut(whole_of(shape)).flatten())


def test_an_index_of_another_shard_is_not_found_here() -> None:
    first, second = shards_of((3, 2), [(0, 2)])
    assert [found.tolist() for found in first.locate(torch.tensor([5, 0, 3]))] == [[1, 2], [0, 3]]
    assert [found.tolist() for found in second.locate(torch.tensor([5, 0, 3]))] == [[0], [1]]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_a_plain_tensor_is_one_shard(shape: tuple[int, ...]) -> None:
    tensor = torch.nn.Parameter(torch.ones(shape))
    shard = shard_of(tensor)
    assert shard.is_whole
    assert shard.numel == tensor.numel()
    assert not is_distributed(tensor)
    assert local_of(tensor).data_ptr() == tensor.data_ptr()
    indices = torch.arange(tensor.numel())
    assert [found.tolist() for found in shard.locate(indices)] == [indices.tolist(), indices.tolist()]
    assign(tensor, indices, torch.zeros(tensor.numel()))
    assert not take(tensor, indices).any()
