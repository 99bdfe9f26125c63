"""The patch reader under hostile files: `python -m tests.fuzz --executions N` writes `artifacts/fuzz.md`.

Each file depends on the seed and its number alone: `--first 4711 --executions 1` repeats one.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tests.fuzz.campaign import FREE_ENTRIES, SAMPLED, Outcome, peak_memory, run_campaign
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.parts import SEEDS

REPORT = Path(__file__).parents[2] / "artifacts" / "fuzz.md"
MEMORY = Path("/dev/shm")  # files in memory, where there are such
WARM_UP = 2000  # executions after which the process's size is taken as its usual one
FACTS = 40  # of refusal that the report lists


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=REPORT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        warm = min(WARM_UP, asked.executions // 2)
        numbers = range(asked.first, asked.first + asked.executions)
        sizes: list[int] = []
        with tqdm(total=asked.executions, desc="fuzz", disable=None) as bar:

            def progress(outcome: Outcome) -> None:
                bar.update()
                if outcome.executions == warm:
                    sizes.append(peak_memory())

            outcome = run_campaign(Path(folder), numbers, asked.seed, progress)
    grown = peak_memory() - (sizes or [peak_memory()])[0]
    text = describe(outcome, asked.seed, time.perf_counter() - start, grown)
    asked.report.write_text(text, encoding="utf-8")
    print(text)
    return 1 if outcome.crashes or outcome.events else 0


def describe(outcome: Outcome, seed: int, seconds: float, grown: int) -> str:
    """The figures of a run as Markdown."""
    rows = (
        ("executions", f"{outcome.executions:,}"),
        ("refused with one line", f"{outcome.refused:,}"),
        ("loaded, sound", f"{outcome.loaded:,}"),
        ("crashes, other errors, long messages", f"{len(outcome.crashes):,}"),
        ("writes, processes, connections, unpicklings while reading", f"{len(outcome.events):,}"),
        ("different facts of refusal", f"{len(outcome.facts):,}"),
        ("largest file", f"{outcome.largest_file:,} bytes"),
        (f"most memory for one file above 32 bytes per byte of it (every {SAMPLED}th)", f"{outcome.peak:,} bytes"),
        (f"growth of the process's largest size after {WARM_UP:,} files", f"{grown:,} bytes"),
        ("slowest file", f"{1000 * outcome.slowest:.0f} ms"),
        ("time", f"{seconds:,.0f} s, {outcome.executions / seconds:,.0f} a second"),
    )
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    command = f"`python -m tests.fuzz --executions {outcome.executions} --seed {seed}`"
    lines = [
        f"{command}: {len(SEEDS)} sound files, each under 0 to 6 of {len(MUTATIONS)} mutations, lengths and prints",
        "made to agree again or not, in half of the files the hashes too, then read by `load_patch` and `load_mask`.",
        f"The bound on entries without bytes (2^31) is lowered to {FREE_ENTRIES:,}. {versions}.",
    ]
    crashes = [f"file {number}: `{what}`" for number, what in outcome.crashes[:FACTS]]
    return "\n".join(
        [
            "# Hostile patch files",
            "",
            *lines,
            "",
            "| what | figure |",
            "|---|---|",
            *(f"| {name} | {figure} |" for name, figure in rows),
            *_listed("What came out instead of one line", crashes),
            *_listed("What was done while reading", [f"`{event}`" for event in outcome.events[:FACTS]]),
            *_listed("Why files were refused", [f"{n:,} × `{fact}`" for fact, n in outcome.facts.most_common(FACTS)]),
            "",
        ]
    )


def _listed(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {line}" for line in lines)] if lines else []


if __name__ == "__main__":
    raise SystemExit(main())
