"""The streams of the process: results on stdout arrive, or it is said that they did not."""

from __future__ import annotations

import contextlib
import os
import sys


def open_streams() -> None:
    """See to it that all three streams are there, and that no character stops a line.

    A closed one would leave its number to the next file that is opened, into which what is printed would go.

    Raises:
        OutputError: stdout is closed, so that no result can arrive.
    """
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_RDONLY), closefd=False)  # noqa: SIM115 - to the end
    if sys.stderr is None:
        sys.stderr = open(_null_as(2), "w", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        from graft.errors import OutputError

        sys.stdout = open(_null_as(1), "w", closefd=False)  # noqa: SIM115
        raise OutputError("stdout is closed, and results go there: use >/dev/null to be without them")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does


def can_print(text: str) -> bool:
    """Whether stdout's encoding has all of the characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def flush() -> None:
    """Write what waits for stdout; where that fails it waits no longer, since Python would try again at the very end.

    Raises:
        OSError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _null_as(number: int) -> int:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    return number
