"""One tensor of more than 2^31 elements through whole commands: the index passes 32 bits, and nothing is held whole.

The checkpoints are sparse files, zeros but for a few weights on both sides of element 2^31. Each command runs in a
process of its own. Afterwards the merged file is compared with the tuned one, bit for bit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from graft_cli.entry import main

import graft
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import load_patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from tests.benchmarks.compose import Peak, write_zeros

N = 2**31 + 8
SPECS = {"experts.weight": TensorSpec("BF16", (2, N // 2)), "norm.weight": TensorSpec("BF16", (8,))}
MOVED = {0: 1.0, 2**31 - 1: -2.0, 2**31: 3.0, 2**31 + 1: -0.5, N - 1: 4.0}  # flat index -> the tuned value
HELD = {7: 0.25, 2**31 + 3: 0.25}  # in both
BUDGET = 3
Row = dict[str, object]


def measure() -> list[Row]:
    """One row per command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder)
        rows = [_run(folder, command) for command in ("diff", f"diff --budget {BUDGET}", "apply")]
        check(folder)
    return rows


def write_pair(folder: Path) -> None:
    """base.safetensors and tuned.safetensors, which take a few blocks of the disk each."""
    for name, weights in (("base", HELD), ("tuned", HELD | MOVED)):
        path = folder / f"{name}.safetensors"
        write_zeros(path, SPECS)
        start = Checkpoint.open(path).stored["experts.weight"].start
        with path.open("r+b") as file:
            for index, value in weights.items():
                file.seek(start + 2 * index)
                file.write(bytes(torch.tensor([value]).bfloat16().view(torch.uint8).numpy()))


def check(folder: Path) -> None:
    """The patches hold what was moved, and the merged file is the tuned one."""
    every, few = load_patch(folder / "diff"), load_patch(folder / "few")
    assert every.mask["experts.weight"].tolist() == list(MOVED)
    assert every.values["experts.weight"].tolist() == list(MOVED.values())
    largest = sorted(sorted(MOVED, key=lambda index: -abs(MOVED[index]))[:BUDGET])
    assert few.mask["experts.weight"].tolist() == largest
    merged = CheckpointPair.open(folder / "tuned.safetensors", folder / "merged" / "base.safetensors")
    assert not any(len(merged.changed(name)) for name in merged.names)


def _run(folder: Path, command: str) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.huge", str(folder), command], stdout=subprocess.PIPE, check=True
    )
    return {"command": command, "elements": N, **json.loads(done.stdout.splitlines()[-1])}


def work(folder: Path, command: str) -> None:
    """One command in this process; prints seconds and MiB as its last line."""
    base, tuned = folder / "base.safetensors", folder / "tuned.safetensors"
    what, *more = command.split()
    given = {"diff": ["diff", base, tuned, *more, "-o", folder / ("few" if more else "diff")]}
    given["apply"] = ["apply", base, folder / "diff", "-o", folder / "merged"]
    graft.diff_checkpoints  # noqa: B018 - imports count as the interpreter's
    peak, start = Peak(), time.perf_counter()
    before = peak.now() // 1024
    code: object = None
    try:
        main([*map(str, given[what])])
    except SystemExit as done:
        code = done.code
    assert not code, code
    print(json.dumps({"s": round(time.perf_counter() - start, 1), "anonymous MiB": peak.stop() - before}))


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
