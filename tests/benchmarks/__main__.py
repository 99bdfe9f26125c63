"""`make bench`: run every CPU benchmark and write artifacts/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from tests.benchmarks import compose, fuse, size, speed

OUT = Path("artifacts/benchmarks.md")


def main() -> None:
    """Measure and write."""
    cores = len(os.sched_getaffinity(0))
    about = f"{cores} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
    about += f"torch {torch.__version__}, transformers {transformers.__version__}"
    parts = [
        "# Benchmarks\n\nWritten by `make bench`. Ratios are to the named baseline in the same run.\n",
        f"Hardware and versions: {about}.\n",
        "## Size of a patch file at density 1e-4 in bf16\n\nBound: log2 C(N, k) bits and 16 bits a value. "
        "Random masks over the layers of real geometries.\n",
        "Entries spread uniformly:\n\n" + _table(size.measure()),
        "Entries that favour some tensors (each tensor's share times a lognormal factor, sigma 1.5):\n\n"
        + _table(size.measure(1.5)),
        "## Time on the embedded encoder (22.7M parameters, fp32)\n\n" + _table(speed.measure()),
        "## Ten patches of an 8B model in bf16\n\nTime without imports, and the highest anonymous memory of the "
        "process, torch included.\n\n" + _table(compose.measure()),
        "## Fusing two models of 253M parameters in bf16\n\n" + _table(fuse.measure()),
    ]
    OUT.write_text("\n".join(parts), encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


def _table(rows: Sequence[dict[str, object]]) -> str:
    cells = [list(rows[0]), *([_show(value) for value in row.values()] for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]) + "\n"


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
