"""Signals that end a command: half-written output is removed, and the exit code names the signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
MESSAGE = "nothing half-written is left (`train --resume` and `run` go on where they were)"
_RETRY = 0.05  # seconds between checks of whether an import is over
_ALARM: int | None = getattr(signal, "SIGALRM", None)  # not on every system
_IMPORTING = "<frozen importlib._bootstrap"


def leave_at_once(number: int, frame: FrameType | None = None) -> None:
    """End the process at once; for times when nothing is half-written, before a command begins and once it is done."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), b"\ninterrupted\n" if number == signal.SIGINT else b"\nterminated\n")
    os._exit(128 + number)


_OPEN = (signal.SIG_DFL, signal.default_int_handler, leave_at_once)


def take_over() -> None:
    """Handle signals in a process that is this command alone: end at once wherever no `Signals` block is active.

    While Python imports or shuts down, an exception would be lost or show a traceback.
    """
    for number in _ending():
        signal.signal(number, leave_at_once)


def leave(code: object) -> None:
    """End a process whose command was ended by a signal; any other exits in the usual way.

    Where the exception came through compiled code, Python would send itself the signal once more as it exits.
    """
    if isinstance(code, int) and code > 128:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)


class Signals:
    """A block in which the signals that end a process raise KeyboardInterrupt, so that outputs are cleaned up.

    During an import they wait until it is over: compiled libraries abort on an exception then, or lose it. A signal
    that the process was started to ignore stays ignored.

    Attributes:
        received: the number of the first signal; None before there is one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}
        self._entry_frame: FrameType | None = None

    def __enter__(self) -> Signals:
        self._entry_frame = sys._getframe(1)
        if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
            self._before = {number: signal.signal(number, self._receive) for number in _ending()}
            if _ALARM is not None:
                self._before[_ALARM] = signal.signal(_ALARM, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _ALARM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before, self._entry_frame = {}, None

    @property
    def code(self) -> int:
        """The exit code by the convention of shells: 128 + the signal's number."""
        return 128 + (self.received or int(signal.SIGINT))

    @property
    def line(self) -> str:
        """The message for a person."""
        return f"{'interrupted' if self.code == 128 + signal.SIGINT else 'terminated'}; {MESSAGE}"

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        self._end(number, frame)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            return
        if _ALARM in self._before and self._is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, _RETRY)
            return
        raise KeyboardInterrupt

    def _is_importing(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._entry_frame:
            if frame.f_code.co_filename.startswith(_IMPORTING):
                return True
            frame = frame.f_back
        return False


def _ending() -> list[int]:
    numbers = (getattr(signal, name, None) for name in ENDING)
    return [number for number in numbers if number is not None and signal.getsignal(number) in _OPEN]
