"""Commands under hostile inputs: `python -m tests.hostile --executions N` writes `artifacts/hostile.md`.

Each trial depends on the seed and its number alone: `--first 4711 --executions 1 --keep FOLDER` makes one again and
leaves its inputs in FOLDER/first/work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from graft_cli.entry import COMMANDS
from tqdm import tqdm

from tests.hostile.another_way import WAYS
from tests.hostile.campaign import Outcome, Tally
from tests.hostile.shelf import build_shelf
from tests.hostile.trials import KINDS
from tests.hostile.watching import DRAWS
from tests.hostile.workers import LIMIT, STILL, run_watched

REPORT = Path(__file__).parents[2] / "artifacts" / "hostile.md"
MEMORY = Path("/dev/shm")  # files in memory, where there are such
SHOWN = 40  # findings of each sort that the report lists
SORTS = ("traceback", "a bug", "hang", "died", "memory", "exit code", "not one line", "a line of", "no JSON",
         "left behind", "inputs changed", "silent answer", "refused though sound")  # fmt: skip
ABOUT = f"""\
Each trial makes its inputs in a folder of its own: models of two layers, tasks of eight rows for every head, recipes,
patches, of which one is spoilt (of the kind `sound` nothing is). One command line runs over them in a warm process
that is watched from outside: more than {LIMIT:.0f} s of processor time, or {STILL:.0f} s of waiting, is a hang. Before
and after, all files are listed with their digests: what is refused must leave nothing and change nothing, what is
answered its output alone. Answers are asked for again in another way, and must come to the same numbers within 1e-5;
spoilt inputs that must change no number are compared with sound ones, and those that cannot mean anything must be
refused. Bootstrap intervals are drawn from {DRAWS} resamples, and no network is asked.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--executions", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="of all trials, instead of all kinds by their shares")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--findings", type=Path, help="write every finding here, a JSON object a line")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start, tally = time.perf_counter(), Tally()
    with working_folder(asked.keep) as folder, tqdm(total=asked.executions, desc="hostile", disable=None) as bar:
        shelf = build_shelf(folder / "shelf")
        numbers = range(asked.first, asked.first + asked.executions)
        for outcome in run_watched(shelf, folder, numbers, asked.seed, kind=asked.kind):
            tally.count(outcome)
            bar.update()
            if outcome.faults and asked.findings:
                with asked.findings.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(outcome)) + "\n")
            if asked.executions == 1:
                print(shlex.join(outcome.line), outcome, sep="\n")
    text = describe(tally, asked.seed, time.perf_counter() - start)
    asked.report.write_text(text, encoding="utf-8")
    print(text)
    return 1 if tally.faults else 0


@contextlib.contextmanager
def working_folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


def describe(tally: Tally, seed: int, seconds: float) -> str:
    """The figures of a run as Markdown."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    command = f"`python -m tests.hostile --executions {tally.executions} --seed {seed}`"
    cores = f"{len(os.sched_getaffinity(0))} CPU core(s) of {os.cpu_count()} ({platform.machine()})"
    kinds = [[kind, *(f"{tally.codes[kind, code]:,}" for code in (1, 2, 0))] for kind in KINDS]
    known = sorted({command for command, _ in tally.commands} & COMMANDS.keys())
    commands = [[name, *(f"{tally.commands[name, code]:,}" for code in (1, 2, 0))] for name in known]
    kinds.append(["all", *(f"{sum(n for (_, got), n in tally.codes.items() if got == code):,}" for code in (1, 2, 0))])
    faults = [[sort, f"{len(tally.faults.get(sort, ())):,}"] for sort in SORTS]
    ways = [[way, f"{tally.ways[way]:,}"] for way in (*WAYS, "without it")]
    lines = [
        "# Commands under hostile inputs",
        "",
        f"Written by {command} in {seconds / 60:.0f} minutes.",
        ABOUT,
        f"*{cores}, {versions}; slowest trial {tally.slowest:.1f} s, largest growth "
        f"{tally.hungriest / 2**20:,.0f} MiB*",
        *_table(["kind", "refused (exit 1)", "wrong usage (2)", "answered (0)"], kinds),
        *_table(["command", "refused (exit 1)", "wrong usage (2)", "answered (0)"], commands),
        *_table(["what should not be", "trials"], faults),
        *_table(["answers asked for in another way", "trials"], ways),
    ]
    for sort in tally.faults:
        lines += ["", f"## {sort}", "", *(_finding(outcome) for outcome in tally.faults[sort][:SHOWN])]
    done = ", ".join(f"{name} ({n:,})" for name, n in sorted(tally.done.items()))
    return "\n".join([*lines, "", "## What was done to the inputs", "", done, ""])


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _finding(outcome: Outcome) -> str:
    """One line of a list; whatever is in the input, it is plain text."""
    command = shlex.join(Path(word).name if word.startswith("/") else word for word in outcome.line)
    shown = [ascii(text)[1:-1] for text in (command, "; ".join(outcome.faults))]
    return f"- {outcome.number} ({'; '.join(outcome.done)}): `{shown[0][:160]}`: {shown[1][:300]}"


if __name__ == "__main__":
    raise SystemExit(main())
