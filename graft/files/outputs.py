"""Outputs written beside their path and moved onto it, so that a crash leaves no half file.

A process that is killed outright leaves its temporary folder behind, hidden beside the output and marked. The next one
that writes the same output removes it. Such a folder is locked for as long as its process lives: one without a lock
belongs to nobody.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graft.errors import OutputError
from graft.files.claims import Claim, Output, claim_output, take_snapshot
from graft.files.moves import OLD, exchange, move_new
from graft.files.workplaces import MARK, is_marked, put_mark
from graft.interrupts import hold_signals

_PREFIX = ".graft-"  # short, so that the output's own name may be as long as the disk allows


@contextlib.contextmanager
def new_file(path: Output, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty file on the same disk; on a clean exit it is synced and moved onto `path`.

    Args:
        path: of the output, or a claim to it, which also says whether to replace what was there then.
        force: replace what is there now.

    Raises:
        OutputError: what `claim_output` refuses; something appeared at the path meanwhile, or what was there changed;
            or the disk refuses (full, read-only, no rights).
    """
    claim = claim_output(path, is_folder=False, force=force)
    with _temporary_of(claim) as (file, rights):
        file.touch()
        yield file
        _finish_file(file, rights)


@contextlib.contextmanager
def new_folder(path: Output, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder on the same disk; on a clean exit its files are synced and it becomes `path`.

    With `force` an existing folder is replaced whole, never merged into.

    Args:
        path, force: as in `new_file`.

    Raises:
        OutputError: as in `new_file`.
    """
    claim = claim_output(path, is_folder=True, force=force)
    with _temporary_of(claim) as (folder, rights):
        folder.mkdir()
        yield folder
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                _finish_file(file, rights)


@contextlib.contextmanager
def _temporary_of(claim: Claim) -> Iterator[tuple[Path, int]]:
    """Yield a path beside the output, which replaces it after a clean exit, and the rights of new folders here."""
    with _make_parents(claim.path):
        _remove_stale(claim.path)
        holder, handle, rights = _make_holder(claim.path)
        try:
            yield holder / "new", rights
            with hold_signals():  # between two moves the folder may hold the only copy of what stood at the path
                _move_in(holder / "new", claim)
        except BaseException as error:
            _remove_failed(holder, claim.path, error)
            raise
        else:
            _remove_replaced(holder, claim.path)  # still locked, or others would take it for a dead process's
        finally:
            os.close(handle)


def _make_holder(path: Path) -> tuple[Path, int, int]:
    """Make the marked temporary folder of an output; return it, the handle that locks it, and new folders' rights."""
    while True:
        holder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent))
        with contextlib.suppress(FileNotFoundError):  # taken for a dead process's before it was locked: make another
            handle = os.open(holder, os.O_RDONLY)
            try:
                if _lock(handle) is not False:  # before the mark, by which others take it for a temporary
                    return holder, handle, put_mark(holder, path)
            except BaseException:
                os.close(handle)
                shutil.rmtree(holder, ignore_errors=True)
                raise
            os.close(handle)


def _move_in(finished: Path, claim: Claim) -> None:
    """Move a finished output onto the claimed path, in exchange for what the claim saw there, if that is unchanged."""
    try:
        if claim.snapshot is None or not os.path.lexists(claim.path):
            move_new(finished, claim.path)
            return
    except FileExistsError as error:
        raise _changed_error(claim.path) from error
    if take_snapshot(claim.path) != claim.snapshot:
        raise _changed_error(claim.path)
    exchange(finished, claim.path)
    if take_snapshot(finished) != claim.snapshot:  # it was changed at the last moment
        try:
            exchange(finished, claim.path)
        except OSError:
            finished.rename(finished.with_name(OLD))  # where it is not taken for this process's own
            raise
        raise _changed_error(claim.path)


def _changed_error(path: Path) -> OutputError:
    return OutputError(
        f"{path} was written by something else while this ran, and is not overwritten: "
        "move it, or choose another name, and start again"
    )


def _remove_failed(holder: Path, path: Path, error: BaseException) -> None:
    """Remove the temporary folder of a failure, unless what stood at the path is in it and could not be put back.

    Such a folder loses its mark, so that nobody takes it for a temporary.

    Raises:
        OutputError: saying where it is.
    """
    if not os.path.lexists(holder / OLD):
        shutil.rmtree(holder, ignore_errors=True)
        return
    (holder / MARK).unlink(missing_ok=True)
    reason = getattr(error, "strerror", None) or error
    raise OutputError(f"{path}: cannot be replaced ({reason}); what stood there before is {holder / OLD}") from error


def _remove_replaced(holder: Path, path: Path) -> None:
    try:
        shutil.rmtree(holder)
    except OSError as error:
        raise OutputError(f"{path} is written, but what stood there before is left in {holder} ({error})") from error


def _finish_file(file: Path, rights: int) -> None:
    """Sync a file and give it the usual rights, since some libraries make files that their owner alone may read."""
    _sync(file)
    if file.stat().st_mode & 0o777 != rights & 0o666:
        file.chmod(rights & 0o666)


def _lock(handle: int) -> bool | None:
    """Lock an open folder until it is closed; return False where somebody else holds it, None where nothing can."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system or a disk without such locks: nothing counts as stale there
        return None
    return True


@contextlib.contextmanager
def _locked(leftover: Path) -> Iterator[bool]:
    """Open a folder, not a link to one, for the length of a block; yield whether no process had it locked."""
    handle = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield bool(_lock(handle))
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    """Remove temporary folders of this output that no living process locks; keep the only copy of an old output."""
    for leftover in path.parent.iterdir():
        if not leftover.name.startswith(_PREFIX):
            continue
        if not is_marked(leftover, path):
            _remove_unmarked(leftover)
            continue
        if os.path.lexists(leftover / OLD) and not os.path.lexists(path):
            continue
        with contextlib.suppress(FileNotFoundError), _locked(leftover) as is_free:  # another process may be quicker
            if is_free:
                shutil.rmtree(leftover)


def _remove_unmarked(leftover: Path) -> None:
    """Remove the empty folder of a process that was killed while it marked it; one with anything else in it stays."""
    with contextlib.suppress(OSError), _locked(leftover) as is_free:  # not a folder, not empty, or gone
        if is_free:
            mark = leftover / MARK
            if os.path.lexists(mark) and mark.lstat().st_size == 0 and len(list(leftover.iterdir())) == 1:
                mark.unlink()
            leftover.rmdir()


@contextlib.contextmanager
def _make_parents(path: Path) -> Iterator[None]:
    """Make the folders that are missing above a path; remove them again after a failure inside."""
    missing = [parent for parent in path.parents if not parent.exists()]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
