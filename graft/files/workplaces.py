"""Folders that the toolkit makes for itself beside an output, marked, so that nothing else is ever removed.

A folder counts as ours by the mark in it, never by its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graft.errors import OutputError
from graft.files.moves import move_new

MARK = ".made-by-graft"
_MAX_NAME = 255  # bytes of a name, on every usual disk


def workplace_of(out: Path) -> Path:
    """Return the path for work on an output over several runs: `NAME.resume` beside it, a hash for a long NAME."""
    name = f"{out.name}.resume"
    if len(os.fsencode(name)) > _MAX_NAME:
        name = f".{hashlib.sha256(os.fsencode(out.name)).hexdigest()[:32]}.resume"
    return out.with_name(name)


def make_workplace(out: Path) -> Path:
    """Return the workplace of an output; make it where it is missing.

    Raises:
        OutputError: something of that name is there that is not ours, or the disk refuses.
    """
    folder = workplace_of(out)
    refuse_unmarked(folder)
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _create_marked(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    refuse_unmarked(folder)
    return folder


def _create_marked(folder: Path) -> None:
    """Make a folder that bears its mark from the first moment, since other processes of the training look at it."""
    temporary = Path(tempfile.mkdtemp(prefix=".graft-", dir=folder.parent))
    try:
        temporary.chmod(put_mark(temporary, folder))
        with contextlib.suppress(FileExistsError, NotADirectoryError):  # another process was here first
            move_new(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def open_workplace(out: Path) -> Iterator[Path]:
    """Yield the workplace of an output; after a failure that leaves nothing in it, remove it and its new parents.

    Raises:
        OutputError: as `make_workplace`.
    """
    missing = [parent for parent in out.parents if not parent.exists()]  # innermost first
    folder = make_workplace(out)
    try:
        yield folder
    except BaseException:
        if [item.name for item in folder.iterdir()] == [MARK]:
            drop_workplace(out)
            for parent in missing:
                with contextlib.suppress(OSError):
                    parent.rmdir()
        raise


def drop_workplace(out: Path) -> None:
    """Remove the workplace of an output, if there is one and it is ours."""
    folder = workplace_of(out)
    if is_marked(folder, folder):
        shutil.rmtree(folder, ignore_errors=True)


def refuse_unmarked(folder: Path) -> None:
    """Refuse a folder that is in the way and was not made here under this name.

    Raises:
        OutputError: naming it.
    """
    if os.path.lexists(folder) and not is_marked(folder, folder):
        raise OutputError(f"{folder} is in the way and was not made by graft: move it, or choose another output")


def put_mark(folder: Path, out: Path) -> int:
    """Mark a folder as made here for an output; return the rights that a new folder gets here, as of `stat`.

    They are read from the new file, since asking the system for the umask means changing it, for every thread at once.
    """
    handle = os.open(folder / MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o777)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(_mark_content(out), file)
        return os.fstat(file.fileno()).st_mode & 0o777


def is_marked(folder: Path, out: Path) -> bool:
    """Return whether a folder, not a link to one, was made here for this output."""
    try:
        return not folder.is_symlink() and json.loads((folder / MARK).read_bytes()) == _mark_content(out)
    except (OSError, ValueError, RecursionError):
        return False


def _mark_content(out: Path) -> dict[str, str]:
    return {"made_by": "skillgraft", "output": out.name.encode("utf-8", "surrogateescape").hex()}
