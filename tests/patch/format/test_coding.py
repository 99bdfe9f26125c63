from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.patch.format.coding import decode_bits, decode_gaps, encode_bits, encode_gaps, encode_indices
from graft.patch.mask import Indices

GAPS = st.one_of(st.integers(0, 9), st.integers(65_530, 65_540), st.integers(131_065, 131_075), st.integers(0, 2**26))


@st.composite
def sparse_indices(draw: st.DrawFn) -> tuple[Indices, int]:
    """Draw sorted indices with gaps of every kind, and a number of elements that holds them."""
    gaps = draw(st.lists(GAPS, min_size=1, max_size=30))
    indices = np.cumsum(np.asarray(gaps) + 1) - 1
    return indices, int(indices[-1]) + 1 + draw(st.integers(0, 2**30))


@st.composite
def dense_indices(draw: st.DrawFn) -> tuple[Indices, int]:
    n = draw(st.integers(1, 200))
    chosen = draw(st.sets(st.integers(0, n - 1), min_size=1))
    return np.asarray(sorted(chosen), dtype=np.int64), n


def written_out(indices: Indices) -> list[int]:
    """Encode by the contract's rule, gap by gap."""
    tokens: list[int] = []
    for before, index in itertools.pairwise([-1, *map(int, indices)]):
        n_full, rest = divmod(index - before - 1, 65535)
        tokens += [65535] * n_full + [rest]
    return tokens


@pytest.mark.parametrize(
    ("gap", "tokens"),
    [(65534, [65534]), (65535, [65535, 0]), (65536, [65535, 1]), (131070, [65535, 65535, 0])],
)
def test_the_worked_examples_of_the_contract(gap: int, tokens: list[int]) -> None:
    first = np.array([gap])
    assert encode_gaps(first).tolist() == tokens
    later = np.array([3, 3 + 1 + gap])
    assert encode_gaps(later).tolist() == [3, *tokens]
    assert decode_gaps(encode_gaps(later), 2, gap + 5).tolist() == later.tolist()


@settings(derandomize=True, deadline=None)
@given(sparse_indices())
def test_gaps_are_written_by_the_rule_and_read_back(case: tuple[Indices, int]) -> None:
    indices, n = case
    tokens = encode_gaps(indices)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == written_out(indices)
    assert tokens[-1] != 65535
    assert np.array_equal(decode_gaps(tokens, indices.size, n), indices)


def test_gaps_reach_far_beyond_two_to_the_31_elements() -> None:
    indices = np.array([0, 2**31, 2**36 + 17, 2**36 + 18, 2**38], dtype=np.int64)
    coded = encode_indices(indices, 2**40)  # never allocates n elements
    assert coded.code == "gaps"
    assert np.array_equal(decode_gaps(coded.gaps, indices.size, 2**40), indices)


@settings(derandomize=True, deadline=None)
@given(dense_indices())
def test_bits_round_trip_least_significant_first(case: tuple[Indices, int]) -> None:
    indices, n = case
    bits = encode_bits(indices, n)
    assert bits.size == -(-n // 8)
    assert [i for i in range(8 * bits.size) if bits[i // 8] >> (i % 8) & 1] == indices.tolist()
    assert np.array_equal(decode_bits(bits, indices.size, n), indices)


@settings(derandomize=True, deadline=None)
@given(st.one_of(dense_indices(), sparse_indices()))
def test_the_code_is_the_one_that_the_contract_prescribes(case: tuple[Indices, int]) -> None:
    indices, n = case
    tokens = written_out(indices)
    expected = "all" if indices.size == n else "bits" if -(-n // 8) < 2 * len(tokens) else "gaps"
    coded = encode_indices(indices, n)
    assert coded.code == expected
    assert coded.gaps.tolist() == (tokens if expected == "gaps" else [])
    assert coded.bits.size == (-(-n // 8) if expected == "bits" else 0)


@pytest.mark.parametrize(("n", "k", "code"), [(1, 1, "all"), (8, 8, "all"), (8, 1, "bits"), (16, 1, "gaps")])
def test_the_borders_between_codes(n: int, k: int, code: str) -> None:
    assert encode_indices(np.arange(k), n).code == code  # at 16 elements both take two bytes: gaps


@pytest.mark.parametrize(
    ("tokens", "k", "n"),
    [
        ([1, 2, 3], 2, 100),
        ([1, 2, 3], 4, 100),
        ([1, 2, 65535], 2, 10**6),
        ([65535], 0, 10**6),
        ([65535], 1, 10**6),
        ([], 1, 100),
        ([1, 2, 3], 3, 8),
        ([65535, 65535, 0], 1, 131070),
    ],
)
def test_tokens_that_contradict_their_row_are_refused(tokens: list[int], k: int, n: int) -> None:
    assert decode_gaps(np.array([1, 2, 3], np.uint16), 3, 9).tolist() == [1, 4, 8]
    assert decode_gaps(np.array([65535, 65535, 0], np.uint16), 1, 131071).tolist() == [131070]
    with pytest.raises(ValueError, match=r"hold|outside"):
        decode_gaps(np.array(tokens, np.uint16), k, n)


@pytest.mark.parametrize(("bits", "k"), [([0b101, 0], 1), ([0b101, 0], 3), ([0b001, 0b100], 2), ([0, 0x80], 1)])
def test_bits_that_contradict_their_row_are_refused(bits: list[int], k: int) -> None:
    assert decode_bits(np.array([0b101, 0b11], np.uint8), 4, 10).tolist() == [0, 2, 8, 9]
    with pytest.raises(ValueError, match=r"hold|padding"):
        decode_bits(np.array(bits, np.uint8), k, 10)
