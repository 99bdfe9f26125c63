"""How far the mask of two processes agrees with one process's, on the embedded encoder tuned on film reviews.

Two Gloo processes on the CPU, started by torchrun, over the same micro-batches as the one: whole models (DDP), or
shards of them (FSDP2), where gradients are summed over the processes before candidates are taken from them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from graft.localize.localization import localize_skill
from graft.parallel.launch import find_ranks, leave
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task

BASE, TASK = "embedded:all-MiniLM-L6-v2", Path("recipes/starter/reviews/task.yaml")
DENSITIES = (1e-4, 1e-3)
POINTS = 2
Row = dict[str, object]


def measure() -> list[Row]:
    """A row per engine and density: the share of one process's entries that two processes find too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_task(BASE, Task.load(TASK), folder / "tuned")
        work(folder, "one")
        for engine in ("ddp", "fsdp"):
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            command = [sys.executable, *torchrun, "-m", "tests.benchmarks.processes", str(folder), engine]
            subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        return [_compare(folder, engine, density) for engine in ("ddp", "fsdp") for density in DENSITIES]


def work(folder: Path, engine: str) -> None:
    """Localize at each density and save what the first process found."""
    for density in DENSITIES:
        config = LocalizeSpec(density=density, points=POINTS)
        parallel = "ddp" if engine == "one" else engine
        patch = localize_skill(BASE, folder / "tuned", Task.load(TASK), config, parallel=parallel)
        if find_ranks().is_first:
            save_patch(patch, _file(folder, engine, density))


def _compare(folder: Path, engine: str, density: float) -> Row:
    one, two = (load_patch(_file(folder, which, density)).mask for which in ("one", engine))
    row: Row = {"two processes": {"ddp": "DDP", "fsdp": "FSDP2"}[engine], "density": density, "entries": len(two)}
    return row | {"of one process's": f"{_share(one, two):.4f}"}


def _share(one: Mask, two: Mask) -> float:
    return len(one & two) / len(one)


def _file(folder: Path, engine: str, density: float) -> Path:
    return folder / f"{engine}-{density:g}.safetensors"


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
    leave()
