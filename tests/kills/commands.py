"""Commands in processes that are killed at any moment, and what is left when they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from graft_cli.entry import main

POLL = 5e-4  # seconds between two looks at whether writing has begun


@dataclass(frozen=True)
class Left:
    """What a command left, killed or not.

    Attributes:
        finished: whether it was done before the kill came.
        output: the digest of what stands under the final name, None where nothing does.
        temporaries: hidden names beside it.
        seconds: from its start to its end, or to the kill.
        writing: the part of them in which its temporary was there, of a run that was let be.
    """

    finished: bool
    output: str | None
    temporaries: tuple[str, ...]
    seconds: float
    writing: float


def run_and_kill(
    arguments: Sequence[object], output: Path, after: float | None, *, while_writing: bool = False
) -> Left:
    """Run `graft ARGUMENTS` in a fork, which spares it the imports, and kill it.

    Args:
        arguments: of the command.
        output: what it makes.
        after: seconds to the kill; None lets the command run to its end.
        while_writing: count them from the moment at which the output's temporary is there, not from the start.
    """
    start = begun = moved = time.perf_counter()
    child = os.fork()
    if child == 0:
        _run(arguments)
    if while_writing or after is None:
        begun = _wait_for_temporary(child, output, there=True)
    if after is None:
        moved = _wait_for_temporary(child, output, there=False)
    else:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)  # one that has ended already is there until it is waited for
    _, status = os.waitpid(child, 0)
    finished = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    return Left(finished, digest(output), temporaries_of(output), time.perf_counter() - start, moved - begun)


def temporaries_of(output: Path) -> tuple[str, ...]:
    """Hidden names beside an output, sorted."""
    names = (item.name for item in output.parent.iterdir())
    return tuple(sorted(name for name in names if name.startswith((".graft-", f".{output.name}."))))


def digest(path: Path) -> str | None:
    """SHA-256 over the names and bytes of a file or of all files of a folder."""
    if not path.exists():
        return None
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            whole.update(f"{file.relative_to(path)}\0".encode())
            with file.open("rb") as content:
                while part := content.read(1 << 20):
                    whole.update(part)
    return whole.hexdigest()


def _run(arguments: Sequence[object]) -> None:
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        torch.set_num_threads(1)  # a fork has none of the threads that PyTorch started before it
        try:
            main([*map(str, arguments)])
        except SystemExit as done:
            os._exit(int(done.code or 0))
        os._exit(99)


def _wait_for_temporary(child: int, output: Path, *, there: bool) -> float:
    """The time at which a child's temporary was there, or gone again, or the child had ended."""
    ended = partial(os.waitid, os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # None while it runs
    while bool(temporaries_of(output)) != there and ended() is None:
        time.sleep(POLL)
    return time.perf_counter()
