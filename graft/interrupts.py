"""What must not be left half done: signals are held back meanwhile, and what broke in is let out after.

Python runs signal handlers in the main thread, between any two steps of its own, so that Ctrl-C can come between two
writes that belong together.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")
_ATTEMPTS = 10  # whoever presses Ctrl-C that often means it


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Let no handler of a signal run within the block; those that came run at its end.

    Signals that end the process at once, without a handler of Python's, still do. In other threads nothing happens:
    no handler runs there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = [(number, handler) for number in signal.valid_signals() if callable(handler := signal.getsignal(number))]
    try:
        for number, _ in handlers:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        try:
            _put_back(handlers)
        finally:
            _raise_signals(list(dict.fromkeys(came)))


def finish(work: Callable[[], Result]) -> Result:
    """Do something to its end, and only then let out the interrupt that broke in.

    Args:
        work: begun again from its start where something broke in; doing it twice must be as doing it once.

    Raises:
        Exception: what the work itself fails with, at once.
        BaseException: what broke in, such as KeyboardInterrupt, once the work is done.
    """
    interrupt: BaseException | None = None
    with hold_signals():
        for _ in range(_ATTEMPTS):
            try:
                result = work()
            except Exception:
                raise
            except BaseException as error:
                interrupt = interrupt or error
            else:
                break
    if interrupt is not None:
        raise interrupt
    return result


def _put_back(handlers: Sequence[tuple[int, Any]]) -> None:
    """Each of them, also where the one before lets an interrupt out at once."""
    if handlers:
        (number, handler), *others = handlers
        try:
            signal.signal(number, handler)
        finally:
            _put_back(others)


def _raise_signals(numbers: list[int]) -> None:
    if numbers:
        try:
            signal.raise_signal(numbers[0])
        finally:
            _raise_signals(numbers[1:])
