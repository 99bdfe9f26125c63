"""How a sorted set of flat indices is written: gaps in 16-bit tokens, or a bit field, or "all".

The gap before index i_j is g_j = i_j - i_{j-1} - 1 with i_{-1} = -1. It is written as floor(g/65535) tokens
65535 and then one token g mod 65535, which is always present (contract, section 4).
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
    """A coded set: `code` is "all", "bits" or "gaps"; the unused payloads are empty."""

    code: str
    gaps: Tokens
    bits: Bits


def encode_indices(indices: Indices, n: int) -> Coded:
    """Write (k,) sorted unique indices below n in the code that the format prescribes."""
    none16, none8 = np.empty(0, np.uint16), np.empty(0, np.uint8)
    if indices.size == n:
        return Coded("all", none16, none8)
    tokens = encode_gaps(indices)
    if -(-n // 8) < 2 * tokens.size:
        return Coded("bits", none16, encode_bits(indices, n))
    return Coded("gaps", tokens, none8)


def encode_gaps(indices: Indices) -> Tokens:
    """(k,) sorted unique indices -> (t,) uint16 tokens."""
    gaps = np.diff(indices, prepend=-1) - 1
    whole, rest = np.divmod(gaps, CONTINUE)
    tokens = np.full(indices.size + int(whole.sum()), CONTINUE, np.uint16)
    tokens[np.cumsum(whole + 1) - 1] = rest
    return tokens


def decode_gaps(tokens: Tokens, k: int, n: int) -> Indices:
    """(t,) tokens -> (k,) indices.

    Raises:
        ValueError: the tokens do not hold k indices below n.
    """
    steps = tokens.astype(np.int64)
    last = steps != CONTINUE
    count = int(last.sum())
    if count != k or (tokens.size and not last[-1]):
        raise ValueError(f"its gaps hold {count} indices, not {k}")
    indices: Indices = np.cumsum(steps)[last] + np.arange(count)
    if k and indices[-1] >= n:
        raise ValueError(f"index {indices[-1]} lies outside its {n} elements")
    return indices


def encode_bits(indices: Indices, n: int) -> Bits:
    """Indices -> ceil(n/8) bytes, least significant bit first, padding bits 0."""
    flags = np.zeros(n, np.bool_)
    flags[indices] = True
    return np.packbits(flags, bitorder="little")


def decode_bits(bits: Bits, k: int, n: int) -> Indices:
    """ceil(n/8) bytes -> (k,) indices.

    Raises:
        ValueError: not k bits are set, or a padding bit is.
    """
    indices = np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.int64, copy=False)
    if indices.size != k:
        raise ValueError(f"its bits hold {indices.size} indices, not {k}")
    if k and indices[-1] >= n:
        raise ValueError("a padding bit is set")
    return indices
