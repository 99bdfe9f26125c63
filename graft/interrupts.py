"""Interrupts held back while something must not be left half done, and raised afterwards.

Python runs signal handlers in the main thread, between any two of its instructions, so that Ctrl-C can come between two
writes that belong together.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")
_ATTEMPTS = 10  # a person who presses Ctrl-C that often means it


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Keep signal handlers from running within the block; run those of the signals that arrived at its end.

    Signals that end the process at once, without a Python handler, still do. In other threads nothing is held back,
    as no handler runs there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = [(number, handler) for number in signal.valid_signals() if callable(handler := signal.getsignal(number))]
    try:
        for number, _ in handlers:
            signal.signal(number, lambda number, _: arrived.append(number))
        yield
    finally:
        try:
            _restore_handlers(handlers)
        finally:
            _raise_signals(list(dict.fromkeys(arrived)))


def finish(work: Callable[[], Result]) -> Result:
    """Finish some work, and only then raise the interrupt that broke in.

    Args:
        work: begun again from its start where an interrupt broke in; doing it twice must be as doing it once.

    Raises:
        Exception: the work's own failure, at once.
        BaseException: the interrupt, such as KeyboardInterrupt, once the work is done.
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


def _restore_handlers(handlers: Sequence[tuple[int, Any]]) -> None:
    """Restore each handler, also where restoring the one before raises an interrupt at once."""
    if handlers:
        (number, handler), *others = handlers
        try:
            signal.signal(number, handler)
        finally:
            _restore_handlers(others)


def _raise_signals(numbers: list[int]) -> None:
    if numbers:
        try:
            signal.raise_signal(numbers[0])
        finally:
            _raise_signals(numbers[1:])
