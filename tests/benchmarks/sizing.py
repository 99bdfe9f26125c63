"""The sizing table of docs/guides/clusters.md: computed from shapes and the constants that `--plan` counts with.

Run with `python -m tests.benchmarks.sizing`; nothing of a model's size is allocated.
"""

from __future__ import annotations

import math

from graft.memory.localize import CANDIDATE, PENDING
from graft.specs.localize import LocalizeSpec

DENSITY, BYTES = 1e-4, 2  # bf16
POINTS, EXAMPLES, TOKENS = 8, 256, 128
FLOPS = 0.4 * 989e12  # of an H100's bf16 peak, per second: an assumption
GIB = 1 << 30

# Llama 3's published shapes: width, layers, heads, inner width, tied
SHAPES = {
    "1B": (2048, 16, 32, 8192, True),
    "8B": (4096, 32, 32, 14336, False),
    "70B": (8192, 80, 64, 28672, False),
    "405B": (16384, 126, 128, 53248, False),
}


def count_weights(width: int, layers: int, heads: int, inner: int, tied: bool) -> tuple[int, int, int]:
    """All parameters, those in the numbered layers, the largest tensor of these."""
    key = 8 * width // heads  # 8 heads of keys and of values
    layer = 2 * width * width + 2 * width * key + 3 * width * inner + 2 * width
    embeddings = 128_256 * width * (1 if tied else 2)
    return layers * layer + embeddings + width, layers * layer, width * inner


def bound_bytes(n: int, k: int) -> float:
    """Entropy bound of a patch: log2 C(n, k) bits, and 16 a value."""
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return log_choose / math.log(2) / 8 + 2 * k


def row_of(name: str) -> str:
    n, scope, largest = count_weights(*SHAPES[name])
    k, spec = round(DENSITY * n), LocalizeSpec().candidates
    of_one = min(spec.multiple * k, scope)
    candidates = min(spec.micro_batches * of_one, scope)
    figures = [  # GiB, GiB, GiB, GiB, minutes
        (n + largest) * BYTES / GIB,
        (CANDIDATE * candidates + PENDING * of_one) / GIB,
        2 * n * BYTES / GIB,
        4 * n * BYTES / GIB,
        POINTS * (2 + 6) * n * EXAMPLES * TOKENS / FLOPS / 60,
    ]
    size = f"{bound_bytes(n, k) / 2**20:,.1f}"
    return f"| {name} | {n:,} | " + " | ".join(f"{figure:,.1f}" for figure in figures) + f" | {k:,} | {size} |"


if __name__ == "__main__":
    for name in SHAPES:
        print(row_of(name))
