"""Commands in processes that are killed at any moment, and what is left when they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from graft_cli.entry import main


@dataclass(frozen=True)
class Left:
    """What a killed command left.

    Attributes:
        finished: whether it was done before the kill came.
        output: the digest of what stands under the final name, None where nothing does.
        temporaries: hidden names beside it.
    """

    finished: bool
    output: str | None
    temporaries: tuple[str, ...]


def run_and_kill(arguments: Sequence[object], output: Path, after: float | None) -> Left:
    """Run `graft ARGUMENTS` in a fork, which spares it the imports, and kill it after so many seconds; None never."""
    child = os.fork()
    if child == 0:
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            torch.set_num_threads(1)  # a fork has none of the threads that PyTorch started before it
            try:
                main([*map(str, arguments)])
            except SystemExit as done:
                os._exit(int(done.code or 0))
            os._exit(99)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    hidden = sorted(item.name for item in output.parent.iterdir() if item.name.startswith(f".{output.name}."))
    return Left(os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, digest(output), tuple(hidden))


def seconds_of(arguments: Sequence[object], output: Path) -> tuple[float, str]:
    """How long an undisturbed run takes, and the digest of what it makes."""
    start = time.perf_counter()
    left = run_and_kill(arguments, output, None)
    assert left.finished
    assert left.output is not None
    return time.perf_counter() - start, left.output


def digest(path: Path) -> str | None:
    """SHA-256 over the names and bytes of a file or of all files of a folder."""
    if not path.exists():
        return None
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            whole.update(f"{file.relative_to(path)}\0".encode() + file.read_bytes())
    return whole.hexdigest()
