"""Outputs are written beside their place and moved into it, so that a crash leaves no half file.

A process that is killed outright leaves its temporary behind, hidden beside the output. The next that writes the same
output removes it: a temporary is locked for as long as its process lives, so that one without a lock is nobody's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graft.errors import OutputError


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse, before any work, an output that exists already or whose folder cannot be made.

    Raises:
        OutputError: the path exists and `force` is off, or its parent is not a folder.
    """
    with _said_of(path):
        if path.exists() and not force:
            raise OutputError(f"{path} exists already: choose another name or pass --force to overwrite it")
        parent = next((parent for parent in path.parents if parent.exists()), path)
        if not parent.is_dir():
            raise OutputError(f"{path}: {parent} is not a folder")


@contextlib.contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it is synced and moved onto `path`.

    Raises:
        OutputError: the path exists and `force` is off, or the disk refuses (full, read-only, no rights).
    """
    refuse_existing(path, force=force)
    with _parents_of(path):
        _remove_stale(path)
        handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
        temporary = Path(name)
        try:
            _lock(handle)
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit its files are synced and it becomes `path`.

    With `force` an existing folder is replaced whole, never merged into.

    Raises:
        OutputError: as in `new_file`.
    """
    refuse_existing(path, force=force)
    with _parents_of(path):
        _remove_stale(path)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
        handle = os.open(temporary, os.O_RDONLY)
        try:
            _lock(handle)
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    _sync(file)
            temporary.chmod(0o777 & ~_umask())
            _swap_in(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(handle)


def _prefix(path: Path, what: str = "") -> str:
    return f".{path.name}.graft-{what}"


def _lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; whether nobody else holds it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # a system or a disk without such locks: nothing counts as stale there
        return False
    return True


def _remove_stale(path: Path) -> None:
    """Remove temporaries of this output that no living process holds; the only copy of an old output is kept."""
    for left in path.parent.iterdir():
        if not left.name.startswith(_prefix(path)) or left.is_symlink():
            continue
        if left.name.startswith(_prefix(path, "old-")) and not path.exists():
            continue
        handle = os.open(left, os.O_RDONLY)
        try:
            if _lock(handle):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        finally:
            os.close(handle)


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Make the folders that are missing above a path; after a failure inside, those go again."""
    missing = [parent for parent in path.parents if not parent.exists()]  # innermost first
    try:
        with _said_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _swap_in(temporary: Path, path: Path) -> None:
    """Move a finished folder onto `path`; what stood there goes only once the new one is in its place."""
    if not path.exists():
        temporary.replace(path)
        return
    old = Path(tempfile.mkdtemp(prefix=_prefix(path, "old-"), dir=path.parent)) / "old"
    path.replace(old)
    try:
        temporary.replace(path)
    except BaseException:
        old.replace(path)
        old.parent.rmdir()
        raise
    shutil.rmtree(old.parent)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
