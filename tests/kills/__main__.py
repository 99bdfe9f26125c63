"""Commands under SIGKILL: `python -m tests.kills --kills N` writes `artifacts/kills.md`."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from graft.localize.movement import diff_checkpoints
from graft.patch.format.writing import save_patch
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.benchmarks.streaming import write_model
from tests.kills.campaign import Command, Tally, kill_often
from tests.models import write_base, write_task

REPORT = Path(__file__).parents[2] / "artifacts" / "kills.md"
ABOUT = """\
Each command runs over an older output with `--force` and is killed: by turns at a moment drawn from all of its run, and
from the part in which its temporary lies beside the output. Moments go a tenth beyond the end as the run before took
it, so that some kills come too late. Then the command is run again and let be. diff makes a patch of all of 2M random
weights in bf16, apply a copy of 66M, localize a patch of a tiny trained BERT. One folder takes the place of another by
two moves: a kill between them would leave the older one whole beside it, hidden, and nothing under the final name.
"""
COLUMNS = {
    "kills": "kills",
    "late": "too late",
    "old": "the older, whole",
    "new": "the new, whole",
    "aside": "none, the older beside it",
    "halves": "half",
    "leftovers": "temporaries left",
    "restarts": "same bytes when run again",
    "remains": "temporaries after that",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=REPORT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    tallies = {}
    with tempfile.TemporaryDirectory() as name:
        for what, command in prepare(Path(name)).items():
            with tqdm(total=asked.kills, desc=what, disable=None) as bar:
                tallies[what] = kill_often(command, asked.kills, asked.seed, bar.update)
    text = describe(tallies, asked.kills, asked.seed, time.perf_counter() - start)
    asked.report.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(tally.sound for tally in tallies.values()) else 1


def prepare(folder: Path) -> dict[str, Command]:
    """Models, patches, and the commands to kill: files are large for diff and apply, so that writing takes a while."""
    write_base(folder / "small")
    task = Task.load(write_task(folder / "toy"))
    train_task(folder / "small", task, folder / "trained")
    for seed, (name, moved) in enumerate({"base": False, "tuned": True}.items()):
        write_model(folder / name, layers=0, moved=moved)
        torch.manual_seed(seed)
        save_file({"weight": torch.randn(2048, 1024).bfloat16()}, folder / f"{name}.safetensors")
    save_patch(diff_checkpoints(folder / "base", folder / "tuned", density=1e-4), folder / "skill")
    out = {name: folder / f"{name}.out" for name in ("diff", "localize", "apply")}
    small, pair = (folder / "small", folder / "trained"), (folder / "base.safetensors", folder / "tuned.safetensors")
    localize = ["localize", *small, "--task", folder / "toy" / "task.yaml", "--budget", 300, "--points", 2]
    return {
        "diff": Command(["diff", *pair, "-o", out["diff"], "--force"], out["diff"], folder / "skill"),
        "localize": Command([*localize, "-o", out["localize"], "--force"], out["localize"], folder / "skill"),
        "apply": Command(
            ["apply", folder / "base", folder / "skill", "-o", out["apply"], "--force"], out["apply"], folder / "tuned"
        ),
    }


def describe(tallies: dict[str, Tally], kills: int, seed: int, seconds: float) -> str:
    """The figures of a run as Markdown."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    rows = [[what, *(str(getattr(tally, key)) for key in COLUMNS)] for what, tally in tallies.items()]
    lines = [
        "# Commands under SIGKILL",
        "",
        f"Written by `python -m tests.kills --kills {kills} --seed {seed}` in {seconds / 60:.0f} minutes.",
        ABOUT,
        f"*{len(os.sched_getaffinity(0))} CPU core(s) of {os.cpu_count()} ({platform.machine()}), {versions}*",
        "",
        f"| command | {' | '.join(COLUMNS.values())} |",
        "|" + "---|" * (len(COLUMNS) + 1),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
