"""Signals that end a command: what is half-written goes, and the exit code names the signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
SAID = "nothing half-written is left (`train --resume` and `run` go on where they were)"
_AGAIN = 0.05  # seconds between looks at whether an import is over
_ALARM: int | None = getattr(signal, "SIGALRM", None)  # not on every system
_IMPORTING = "<frozen importlib._bootstrap"


def leave_at_once(number: int, frame: FrameType | None = None) -> None:
    """End the process, of which nothing is half-written: before a command has begun, and once it is done."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), b"\ninterrupted\n" if number == signal.SIGINT else b"\nterminated\n")
    os._exit(128 + number)


_OPEN = (signal.SIG_DFL, signal.default_int_handler, leave_at_once)


def take_over() -> None:
    """Of a process that is this command and nothing else: end at once whenever no `Signals` are at work.

    While Python imports, and while it takes itself down, an exception would be lost or show a traceback.
    """
    for number in _ending():
        signal.signal(number, leave_at_once)


def leave(code: object) -> None:
    """End a process whose command was ended by a signal; any other goes on to its own end.

    Python, where an exception came through compiled code, would give the signal to itself once more at the very end.
    """
    if isinstance(code, int) and code > 128:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)


class Signals:
    """For the time of a block the signals that end a process raise KeyboardInterrupt, so that outputs are cleaned up.

    While something is imported they wait until it is: compiled libraries abort on an exception then, or lose it. A
    signal that whoever started the process wants ignored stays ignored.

    Attributes:
        received: the first one that came.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}
        self._home: FrameType | None = None

    def __enter__(self) -> Signals:
        self._home = sys._getframe(1)
        if threading.current_thread() is threading.main_thread():  # Python gives no other thread any
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
        self._before, self._home = {}, None

    @property
    def code(self) -> int:
        """The exit code, as shells have it: 128 and the signal's number."""
        return 128 + (self.received or int(signal.SIGINT))

    @property
    def line(self) -> str:
        """For a person."""
        return f"{'interrupted' if self.code == 128 + signal.SIGINT else 'terminated'}; {SAID}"

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        self._end(number, frame)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            return
        if _ALARM in self._before and self._is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        raise KeyboardInterrupt

    def _is_importing(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._home:
            if frame.f_code.co_filename.startswith(_IMPORTING):
                return True
            frame = frame.f_back
        return False


def _ending() -> list[int]:
    numbers = (getattr(signal, name, None) for name in ENDING)
    return [number for number in numbers if number is not None and signal.getsignal(number) in _OPEN]
