"""Moving a finished output to its place in one step, over nothing that somebody else put there.

Linux does both moves in one call of the system (renameat2). Where the system or the disk does not know it, the place is
reserved first, by an empty file or folder that only one process can make.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

_HERE = -100  # AT_FDCWD
_NO_REPLACE, _EXCHANGE = 1, 2
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def move_new(source: Path, target: Path) -> None:
    """Move a file or folder to where nothing is.

    Raises:
        FileExistsError: something is there, a dangling link among it; nothing was moved.
        OSError: the disk refuses; nothing was moved.
    """
    if not _rename(source, target, _NO_REPLACE):
        _move_reserved(source, target)


def exchange(source: Path, target: Path) -> None:
    """Let two files, folders or links change places.

    Without the system's help `target` is away for a moment; a process that is killed then leaves it beside `source`, as
    "old".

    Raises:
        OSError: the disk refuses, or `target` was taken in that moment; nothing was moved.
    """
    if _rename(source, target, _EXCHANGE):
        return
    aside = source.with_name("old")
    target.rename(aside)
    try:
        move_new(source, target)
    except BaseException:
        move_new(aside, target)
        raise
    aside.rename(source)


def _move_reserved(source: Path, target: Path) -> None:
    """A folder may be moved onto an empty one, and onto no other; a file onto the file that was made for it."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        give_back = target.rmdir
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        give_back = target.unlink
    try:
        source.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            give_back()
        raise


def _rename(source: Path, target: Path, flag: int) -> bool:
    """One step of the system's; False where it, or this disk, has no such step."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    if renameat2(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(target))
