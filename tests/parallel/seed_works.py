"""What the tests have processes of their own do; a module that is quickly imported, as each of these imports it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from graft.errors import DataError


def wait_until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.01)


def leave(folder: Path, seed: int, device: str) -> None:
    line = f"{os.environ['TQDM_POSITION']} {os.environ['TQDM_POSTFIX']} {device} {torch.get_num_threads()}"
    (folder / str(seed)).write_text(line, encoding="utf-8")


def wait(folder: Path, seed: int, device: str) -> None:
    """Leave the process's number and wait; say so where an interrupt comes."""
    (folder / "writing").write_text(str(os.getpid()), encoding="utf-8")
    (folder / "writing").rename(folder / "pid")
    try:
        time.sleep(120)
    finally:
        (folder / "ended").touch()


def refuse(folder: Path, seed: int, device: str) -> None:
    """Refuse a row once seed 0 waits."""
    if seed == 0:
        wait(folder, seed, device)
    wait_until((folder / "pid").exists)
    raise DataError("row 3 has no text")


def fail(seed: int, device: str) -> None:
    raise ValueError(lambda: None)  # which cannot be pickled


def vanish(seed: int, device: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
