"""Codes for a sorted set of flat indices: gaps in 16-bit tokens, or a bit field, or "all".

The gap before index i_j is g_j = i_j - i_{j-1} - 1 with i_{-1} = -1. It is written as floor(g/65535) tokens
65535 and then one token g mod 65535, which is always present:

    indices    0    3    4    65540      65541
    gaps       0    2    0    65535      0
    tokens     0    2    0    65535 0    0          six tokens, 12 bytes; as int64 these five take 40

Fixed tokens of two bytes, and not a variable-length code, because numpy then writes and reads a million of them
without a loop, and at the densities of skills (1 in 1,000 to 1 in 100,000) nearly every gap needs one. From about 1 in
16 on a bit per element is shorter, and where every element is in the set nothing need be said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.patch.mask import Indices

CONTINUE = 65535
Tokens = npt.NDArray[np.uint16]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Coded:
    """A coded set of indices: `code` is "all", "bits" or "gaps"; the unused payloads are empty."""

    code: str
    gaps: Tokens
    bits: Bits


def encode_indices(indices: Indices, n: int) -> Coded:
    """Encode (k,) sorted unique indices below n in the code that the format prescribes: the shortest one."""
    none16, none8 = np.empty(0, np.uint16), np.empty(0, np.uint8)
    if indices.size == n:
        return Coded("all", none16, none8)
    tokens = encode_gaps(indices)
    if -(-n // 8) < 2 * tokens.size:
        return Coded("bits", none16, encode_bits(indices, n))
    return Coded("gaps", tokens, none8)


def encode_gaps(indices: Indices) -> Tokens:
    """Encode (k,) sorted unique indices as (t,) uint16 tokens."""
    gaps = np.diff(indices, prepend=-1) - 1
    n_full, rest = np.divmod(gaps, CONTINUE)
    # gap j takes n_full[j] + 1 tokens, so that its last one ends where the running sum of these says
    tokens = np.full(indices.size + int(n_full.sum()), CONTINUE, np.uint16)
    tokens[np.cumsum(n_full + 1) - 1] = rest
    return tokens


def decode_gaps(tokens: Tokens, k: int, n: int) -> Indices:
    """Decode (t,) tokens to (k,) indices.

    Raises:
        ValueError: the tokens do not hold k indices below n.
    """
    steps = tokens.astype(np.int64)
    last = steps != CONTINUE
    count = int(last.sum())
    if count != k or (tokens.size and not last[-1]):
        raise ValueError(f"its gaps hold {count} indices, not {k}")
    # a running sum of all tokens is the sum of the gaps so far; the j-th index is j more, for the entries in between
    indices: Indices = np.cumsum(steps)[last] + np.arange(count)
    if k and indices[-1] >= n:
        raise ValueError(f"index {indices[-1]} lies outside its {n} elements")
    return indices


def encode_bits(indices: Indices, n: int) -> Bits:
    """Encode indices as ceil(n/8) bytes, least significant bit first, padding bits 0."""
    # [0, 3, 4] of n = 5 -> 0b00011001 = 25: element i is bit i % 8 of byte i // 8
    flags = np.zeros(n, np.bool_)
    flags[indices] = True
    return np.packbits(flags, bitorder="little")


def decode_bits(bits: Bits, k: int, n: int) -> Indices:
    """Decode ceil(n/8) bytes to (k,) indices.

    Raises:
        ValueError: not k bits are set, or a padding bit is.
    """
    indices = np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.int64, copy=False)
    if indices.size != k:
        raise ValueError(f"its bits hold {indices.size} indices, not {k}")
    if k and indices[-1] >= n:
        raise ValueError("a padding bit is set")
    return indices
