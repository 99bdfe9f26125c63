"""Move a finished output to its path in one step, over nothing that somebody else put there.

Linux does both moves in one system call (renameat2). Where the system or the disk lacks it, the path is reserved
first, by an empty file or folder that only one process can make.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

from graft.interrupts import hold_signals

OLD = "old"  # name of what an exchange took away from its place, for as long as it is the only copy
_AT_FDCWD = -100  # relative paths start at the working folder
_NO_REPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def move_new(source: Path, target: Path) -> None:
    """Move a file or folder onto a path that is free.

    Raises:
        FileExistsError: something is there, a dangling link among it; nothing was moved.
        OSError: the disk refuses; nothing was moved.
    """
    if not _rename(source, target, _NO_REPLACE):
        _move_reserved(source, target)


def exchange(source: Path, target: Path) -> None:
    """Exchange two files, folders or links.

    Without the system's help `target` is away for a moment, in which signals wait; a process that is killed outright
    then leaves it beside `source`, as "old".

    Raises:
        OSError: the disk refuses, or `target` was taken in that moment; nothing was moved, unless an "old" beside
            `source` holds what could not be put back.
    """
    if _rename(source, target, _EXCHANGE):
        return
    aside = source.with_name(OLD)
    with hold_signals():
        try:
            target.rename(aside)
            move_new(source, target)
        except BaseException:
            if os.path.lexists(aside):
                move_new(aside, target)
            raise
        aside.rename(source)


def _move_reserved(source: Path, target: Path) -> None:
    """Move a folder onto an empty one that is made for it, a file onto an empty file that is made for it."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        release = target.rmdir
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        release = target.unlink
    try:
        source.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            release()
        raise


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Rename in one system call; return False where the system, or this disk, does not have it."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(target))
