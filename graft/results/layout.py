"""Layout of a run's folder: the same in a folder that `graft run` writes and in one that is committed or shared.

RUN/results.json                           all metrics (`graft.results.run`), written last: with it a run is finished
RUN/table.md                               the tables, for people
RUN/*.png                                  the plots
RUN/patches/NAME-seed-N.safetensors        a patch of every seed
RUN/state/                                 of an unfinished run alone: what was begun, and what each seed has so far
"""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = "results.json"
TABLES = "table.md"
PATCHES = "patches"
STATE = "state"
_PATCH = re.compile(r"(?P<name>.+)-seed-(?P<seed>\d+)\.safetensors")


def patch_name(name: str, seed: int) -> str:
    """Return the file name of a patch: that of its method or task, and its seed."""
    return f"{name}-seed-{seed}.safetensors"


def patch_path(run: Path, name: str, seed: int) -> Path:
    """Return where a run keeps a patch."""
    return run / PATCHES / patch_name(name, seed)


def split_patch_path(file: Path) -> tuple[Path, str] | None:
    """Return the run in which a patch lies and the name it has there; None for a file anywhere else."""
    matched = _PATCH.fullmatch(file.name)
    return (file.parent.parent, matched["name"]) if matched and file.parent.name == PATCHES else None
