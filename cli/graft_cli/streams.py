"""Standard streams: a result reaches stdout, or the command fails and says so."""

from __future__ import annotations

import contextlib
import os
import sys


def open_streams() -> None:
    """Make sure that all three streams are open, and that a character which stdout lacks does not stop a line.

    The next file to be opened would get the number of a closed stream, and output meant for the stream would go there.

    Raises:
        OutputError: stdout is closed, so that no result can arrive.
    """
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_RDONLY), closefd=False)  # noqa: SIM115 - open to the end
    if sys.stderr is None:
        sys.stderr = open(_null_as(2), "w", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        from graft.errors import OutputError

        sys.stdout = open(_null_as(1), "w", closefd=False)  # noqa: SIM115
        raise OutputError("stdout is closed, and results go there: use >/dev/null to be without them")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does


def can_print(text: str) -> bool:
    """Return whether stdout's encoding has all of the characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def flush() -> None:
    """Flush stdout; on failure drop what is buffered, since Python would try to write it again as it exits.

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
