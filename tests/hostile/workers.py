"""A process that runs trials and is watched from outside: one that hangs or dies costs its trial alone."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.hostile.campaign import Outcome, fresh, run_trials
from tests.hostile.trials import make_trial
from tests.hostile.watching import quick_and_offline

LIMIT = 20.0  # seconds of processor time for one trial
STILL = 10.0  # seconds in which a process that waits for something takes no processor time
POLL = 1.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def run_watched(shelf: Path, root: Path, numbers: range, seed: int = 0, **more: Any) -> Iterator[Outcome]:
    """Run trials in a fork that is ended and replaced where one of them hangs, or takes the process with it.

    Args:
        shelf, root, numbers, seed, more: as in `run_trials`.
    """
    context = multiprocessing.get_context("fork")
    first = numbers.start
    while first < numbers.stop:
        ours, theirs = context.Pipe(duplex=False)
        with tempfile.TemporaryFile() as trace:
            child = context.Process(
                target=_work, args=(shelf, root, range(first, numbers.stop), seed, theirs, trace, more)
            )
            child.start()
            theirs.close()
            for outcome in _listen(ours, child.pid or 0):
                yield outcome
                first = outcome.number + 1
            if first < numbers.stop:
                what = _end(child, trace)
                trial = make_trial(shelf, fresh(root / "first"), seed, first, kind=more.get("kind"))
                yield Outcome(first, trial.kind, trial.line, trial.done, faults=[what], seconds=LIMIT)
                first += 1
            child.join()


def _work(shelf: Path, root: Path, numbers: range, seed: int, answers: Connection, trace: Any, more: Any) -> None:
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    faulthandler.register(signal.SIGUSR1, trace, all_threads=False)
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - to the end
    with quick_and_offline():
        for outcome in run_trials(shelf, root, numbers, seed, **more):
            answers.send(outcome)
    answers.close()


def _listen(answers: Connection, pid: int) -> Iterator[Outcome]:
    """What a process sends until it ends, or has used its time for one trial, or waits for what does not come."""
    while True:
        spent = last = _processor_time(pid)
        moved = time.monotonic()
        while not answers.poll(POLL):
            now = _processor_time(pid)
            if now - last > 0.02 or _is_ready(pid):  # not while it waits for its turn beside other work
                last, moved = now, time.monotonic()
            if now - spent > LIMIT or time.monotonic() - moved > STILL:
                return
        try:
            yield answers.recv()
        except EOFError:
            return


def _processor_time(pid: int) -> float:
    """Seconds that a process has used; 0 where it is gone."""
    fields = _state_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _is_ready(pid: int) -> bool:
    """Whether a process runs, or would if it had a processor."""
    return _state_of(pid)[:1] == ["R"]


def _state_of(pid: int) -> list[str]:
    """The fields of a process's state after its name; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _end(child: Any, trace: Any) -> str:
    """End a process; what it did last."""
    child.join(0.5)
    if child.exitcode is not None:
        return f"died: exit code {child.exitcode}"
    os.kill(child.pid, signal.SIGUSR1)
    time.sleep(0.5)
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    trace.seek(0)
    frames = [line.strip() for line in trace.read().decode().splitlines() if " line " in line]
    ours = [frame for frame in frames if "/graft/" in frame]
    return f"hang: {' < '.join([*frames[:1], *ours[:2]])}"[:500]
