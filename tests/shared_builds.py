"""Things that are costly to build, built once for all of the processes that share a run of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return the path of what `build` wrote, which the first process to come here has it write.

    Args:
        factory: of the run; its processes have folders side by side.
        name: of a file or folder below the folder that they share.
        build: writes to the path that it is given. Where it fails, the next process tries again.
    """
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    path, built = root / name, root / f"{name.replace('/', '-')}.built"
    with FileLock(built.with_suffix(".lock")):
        if not built.exists():
            build(path)
            built.touch()
    return path
