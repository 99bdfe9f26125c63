"""Input files, opened only if they are regular: a pipe, a terminal or a device might block, or never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_input(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes.

    Raises:
        OSError: no such file, no rights, a folder, pipe, socket or device, or a path that no file can have;
            `strerror` says which.
    """
    try:
        _require_regular(path.stat().st_mode, path)  # before the opening, which a device may act on
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # NUL, or what has no UTF-8
        raise OSError(errno.EINVAL, "no file can have this name", repr(str(path))) from error
    try:
        _require_regular(os.fstat(handle).st_mode, path)  # another file may have come in between
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
